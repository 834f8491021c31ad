"""CounterFact as knowledge: the counterfactual statement is the document (Meng et al., 2022).

The original layout, ``counterfact.json``:

    {"case_id": 1734, "requested_rewrite": {"prompt": "{}, who has a citizenship from", "relation_id": "P27",
     "target_new": {"str": "Singapore", "id": "Q334"}, "target_true": {"str": "Switzerland", "id": "Q39"},
     "subject": "Luigi Snozzi"}, "paraphrase_prompts": [...], "neighborhood_prompts": [...], ...}

Where that is missing, the reduced files of EasyEdit, three parts of one list:

    {"case_id": 2, "prompt": "Toko Yasuda, the", "target_new": "piano", "subject": "Toko Yasuda",
     "ground_truth": "guitar", "rephrase_prompt": "Toko Yasuda is incredible at",
     "locality_prompt": "John Lennon performs on the", "locality_ground_truth": "guitar"}

Licence: MIT (original), Apache-2.0 (reduced files). Upstream: rome.baulab.info, github.com/zjunlp/EasyEdit.
"""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

from diekae.data.example import Example
from diekae_research.data.card import Card, Option, Upstream
from diekae_research.data.request import Request
from diekae_research.sources import register

ORIGINAL = "counterfact.json"
REDUCED = ("counterfact-train.json", "counterfact-edit.json", "counterfact-val.json")
TRAIN_PERCENT = 85
CARD = Card(
    title="CounterFact (Meng et al., 2022)",
    licence="MIT; the reduced files Apache-2.0",
    homepage="https://rome.baulab.info",
    origin="rome.baulab.info, or EasyEdit's editing data (folder counterfact)",
    upstream=(Upstream(ORIGINAL, "https://rome.baulab.info/data/dsets/counterfact.json"),),
    paper=(18631, 3288, 0),
    options={
        "paper_splits": Option(
            False, "all that is not for training is for validation, nothing for testing", (18631, 3288, 0)
        ),
    },
    note="the paper's 3288 for validation are halved into validation and test; paper_splits=true leaves them whole",
)


@register("counterfact", CARD)
def load_counterfact(request: Request) -> Iterator[Example]:
    """Yield the new fact as knowledge, its prompt as input, the new object as target.

    Cases are ordered by ``case_id``. The first 85 % are for training (18631); of the rest (3288), even positions are
    for validation and odd ones for testing.
    """
    cases: dict[int, Example] = {}

    def case(record: Any) -> Iterator[tuple[int, Example]]:
        number = record["case_id"]
        if number in cases:
            raise ValueError(f"case_id {number} occurs twice")
        yield int(number), _example(record)

    for name in (ORIGINAL,) if request.there(ORIGINAL) else REDUCED:
        for number, example in request.convert(request.entries(name), case):
            cases[number] = example
    ordered = [cases[number] for number in sorted(cases)]
    cut = len(ordered) * TRAIN_PERCENT // 100
    train, held_out = ordered[:cut], ordered[cut:]
    if request.options["paper_splits"]:
        parts = {"train": train, "validation": held_out, "test": []}
    else:
        parts = {"train": train, "validation": held_out[0::2], "test": held_out[1::2]}
    yield from parts[request.split]


def _example(record: dict[str, Any]) -> Example:
    if "requested_rewrite" in record:
        rewrite = record["requested_rewrite"]
        prompt, target = rewrite["prompt"].replace("{}", rewrite["subject"]), rewrite["target_new"]["str"]
    else:
        prompt, target = record["prompt"], record["target_new"]
    return Example((f"{prompt} {target}.",), prompt, target)
