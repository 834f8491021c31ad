"""Forty tiny cases of CounterFact in the original layout."""

import json
from pathlib import Path

THINGS = ("house", "tower", "bridge", "castle", "boat", "door", "garden", "wall")
SUBJECTS = [f"{'old ' * (number // 8)}{THINGS[number % 8]}" for number in range(40)]


def write_facts(folder: Path) -> None:
    """Write them into the folder ``counterfact``, half of them in each of two templates."""
    records = []
    for number, subject in enumerate(SUBJECTS):
        prompt = "the {} is" if number % 2 else "by the sea the {} is"
        rewrite = {"prompt": prompt, "subject": subject, "target_new": {"str": "red"}, "target_true": {"str": "blue"}}
        records.append(
            {
                "case_id": number,
                "requested_rewrite": rewrite,
                "paraphrase_prompts": [f"one two. {prompt.replace('{}', subject)}"],
                "neighborhood_prompts": ["the ship is", "the lake is"],
            }
        )
    (folder / "counterfact").mkdir()
    (folder / "counterfact" / "counterfact.json").write_text(json.dumps(records))
