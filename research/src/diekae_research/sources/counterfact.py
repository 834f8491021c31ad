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

from collections.abc import Iterator, Mapping, Sequence
from typing import Any

from diekae.data.example import Example
from diekae_research.data.card import Card, Option, Upstream
from diekae_research.data.case import NEIGHBOURS, Case
from diekae_research.data.request import Request

ORIGINAL = "counterfact.json"
REDUCED = ("counterfact-train.json", "counterfact-edit.json", "counterfact-val.json")
GENERATION = "generation_prompts.txt"
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
            False, "use all cases that are not for training as validation, and none as test", (18631, 3288, 0)
        ),
    },
    note="the paper's 3288 for validation are halved into validation and test; paper_splits=true leaves them whole",
)


def load(request: Request) -> Iterator[Example]:
    """Yield the new fact as knowledge, its prompt as input, the new object as target; see :func:`divide_cases`."""
    train, validation, test = divide_cases(sorted(iterate_cases(request), key=lambda case: case.case))
    parts = {"train": train, "validation": validation, "test": test}
    if request.options["paper_splits"]:
        both = sorted([*validation, *test], key=lambda case: case.case)
        parts |= {"validation": both, "test": []}
    for case in parts[request.split]:
        yield Example((case.fact,), case.prompt, case.new)


def divide_cases(cases: Sequence[Case]) -> tuple[list[Case], list[Case], list[Case]]:
    """Divide cases, ordered by number, into train, validation and test.

    The first 85 % are for training (18631); of the rest (3288), even positions are for validation and odd ones for
    testing.
    """
    cut = len(cases) * TRAIN_PERCENT // 100
    return list(cases[:cut]), list(cases[cut::2]), list(cases[cut + 1 :: 2])


def iterate_cases(request: Request, name: str = ORIGINAL) -> Iterator[Case]:
    """Yield all cases, of the file `name` in the original layout or of the reduced files.

    In the reduced layout, ``rephrase_prompt`` is often one of CounterFact's *generation* prompts, which are no
    paraphrases. Those that a file ``generation_prompts.txt`` lists, a line each, are left out; without it all are.
    """
    generation, seen = None, set[int]()
    is_original = request.there(name)
    if not is_original and (listed := request.path(GENERATION)).is_file():
        generation = set(listed.read_text().splitlines())

    def convert(record: Mapping[str, Any]) -> Iterator[Case]:
        case = _original(record) if is_original else _reduced(record, generation)
        if case.case in seen:
            raise ValueError(f"case_id {case.case} occurs twice")
        seen.add(case.case)
        yield case

    for part in (name,) if is_original else REDUCED:
        yield from request.convert(request.entries(part), convert)


def _original(record: Mapping[str, Any]) -> Case:
    rewrite = record["requested_rewrite"]
    return Case(
        int(record["case_id"]),
        rewrite["prompt"].replace("{}", rewrite["subject"]),
        rewrite["subject"],
        rewrite["target_new"]["str"],
        rewrite["target_true"]["str"],
        tuple(record["paraphrase_prompts"]),
        tuple(record["neighborhood_prompts"][:NEIGHBOURS]),
    )


def _reduced(record: Mapping[str, Any], generation: set[str] | None) -> Case:
    paraphrase = record["rephrase_prompt"]
    stays = record["locality_ground_truth"] == record["ground_truth"]
    return Case(
        int(record["case_id"]),
        record["prompt"],
        record["subject"],
        record["target_new"],
        record["ground_truth"],
        (paraphrase,) if generation is not None and paraphrase not in generation else (),
        (record["locality_prompt"],) if stays else (),
    )
