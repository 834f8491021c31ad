"""CounterFact as knowledge: the counterfactual statement is the document (Meng et al., 2022).

    {"case_id": 2, "prompt": "Toko Yasuda, the", "target_new": "piano", "subject": "Toko Yasuda",
     "ground_truth": "guitar", "rephrase_prompt": "Toko Yasuda is incredible at",
     "locality_prompt": "John Lennon performs on the", "locality_ground_truth": "guitar"}

The fields are those of the published reduced files, not of the original ROME format.
"""

from __future__ import annotations

from typing import Any

from diekae.data.example import DataError, Example
from diekae.data.sources import Request, register

UPSTREAM = "EasyEdit's editing data (folder counterfact)"
_FILES = ("counterfact-train.json", "counterfact-edit.json", "counterfact-val.json")
_TRAIN_PERCENT = 85


@register("counterfact")
def load_counterfact(request: Request) -> list[Example]:
    """The new fact as knowledge, its prompt as input, the new object as target.

    The three files are parts of one list, put together again by ``case_id``. The first 85 % are for training (18631);
    of the rest (3288), even positions are for validation and odd ones for testing.
    """
    cases: dict[int, dict[str, Any]] = {}
    for name in _FILES:
        for number, case in enumerate(request.json(name, UPSTREAM)):
            try:
                if case["case_id"] in cases:
                    raise ValueError(f"case_id {case['case_id']} occurs twice")
                cases[case["case_id"]] = case
            except (ValueError, TypeError, LookupError) as error:
                raise DataError(
                    f"{request.folder}/{name}: entry {number} is not a CounterFact case ({error!r})"
                ) from error
    ordered = [cases[case_id] for case_id in sorted(cases)]
    cut = len(ordered) * _TRAIN_PERCENT // 100
    held_out = ordered[cut:]
    parts = {"train": ordered[:cut], "validation": held_out[0::2], "test": held_out[1::2]}
    return [_example(case) for case in parts[request.split]]


def _example(case: dict[str, Any]) -> Example:
    try:
        prompt, target = case["prompt"], case["target_new"]
    except KeyError as error:
        raise DataError(f"CounterFact case {case['case_id']} has no {error}; its keys are {', '.join(case)}") from error
    return Example((f"{prompt} {target}.",), prompt, target)
