"""How many questions are answered rightly from several documents, of which one is relevant?

    python research/experiments/several_documents.py --data test.jsonl --documents 8 --json …

The documents are read in one prompt (``prompted``). Or they are prepared apart: then those are read that the prompt is
about, as ``generate`` does with a list (``chosen``); or all (``all``); or the relevant one alone (``own``).
An answer is right if its first line contains the target. The seconds to the first token are medians.
"""

from __future__ import annotations

import argparse
import dataclasses
import statistics
import time
from collections.abc import Callable
from functools import partial
from pathlib import Path
from typing import Any

import torch

from diekae.cli.console import chosen_bank, load_model, progress_bars
from diekae.data import read_examples
from diekae.data.prompt import Prompt, truncate_knowledge
from diekae.evaluation.answers import MAX_TOKENS, exact_match, f1, first_line, right
from diekae.fingerprint import window
from diekae.knowledge import Knowledge, PreparedKnowledge
from diekae.model import DiekaeModel
from diekae.model.generation import generate_texts
from diekae.model.relevance import relevant
from diekae.provenance import write_json
from diekae.run.answer import answer
from diekae_research.evaluation.document_pool import DocumentPool

WAYS = ("prompted", "chosen", "all", "own")
TIMED = 12
"""Questions of which the seconds to the first token are taken."""


def texts_of(model: DiekaeModel, prompt: Prompt, whole: Prompt, known: dict[str, Knowledge]) -> dict[str, str]:
    """Return the answer of each way; ``whole`` has all documents in its prompt, ``known`` what the others read."""
    ids = torch.tensor([prompt.anchor + prompt.input])
    texts = {"prompted": answer(model, [whole], "prompted", MAX_TOKENS)[0]}
    for way, knowledge in known.items():
        (texts[way],), _ = generate_texts(model, ids, torch.ones_like(ids), knowledge, max_new_tokens=MAX_TOKENS)
    return {way: first_line(text) for way, text in texts.items()}


def seconds_of(model: DiekaeModel, prompt: Prompt, whole: Prompt, known: dict[str, Knowledge]) -> dict[str, float]:
    """Return the seconds to the first token in each way; the arguments are those of :func:`texts_of`."""
    ids = torch.tensor([prompt.anchor + prompt.input])
    calls: dict[str, Callable[[], object]] = {"prompted": lambda: answer(model, [whole], "prompted", 1)}
    for way, knowledge in known.items():
        calls[way] = partial(generate_texts, model, ids, torch.ones_like(ids), knowledge, max_new_tokens=1)
    seconds = {}
    for way, call in calls.items():
        began = time.perf_counter()
        call()
        seconds[way] = time.perf_counter() - began
    return seconds


def scores_of(answers: list[dict[str, Any]]) -> dict[str, dict[str, float]]:
    """Return the mean exact match, F1 and right answers of each way."""
    return {
        way: {
            name: sum(score(answer[way], [answer["target"]]) for answer in answers) / len(answers)
            for name, score in (("exact", exact_match), ("f1", f1), ("right", right))
        }
        for way in WAYS
    }


def main() -> None:
    """Measure and write."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--data", type=Path, required=True, help="held-out examples (JSONL)")
    parser.add_argument("--bank", type=Path, help="name or folder of a bank; default: smollm2-exact")
    parser.add_argument("--decoder", help="folder of a decoder that reads exactly, in place of a bank")
    parser.add_argument("--limit", type=int, default=48, help="use only the first examples")
    parser.add_argument("--documents", type=int, default=8, help="documents of each question")
    parser.add_argument("--json", type=Path, required=True, help="where the figures go")
    arguments = parser.parse_args()
    bank = chosen_bank(arguments.bank, arguments.decoder, Path("smollm2-exact"))
    model = load_model(bank, "auto", "auto", decoder=arguments.decoder)
    examples = read_examples(arguments.data, arguments.limit)
    prompter = model.need_prompter()
    pool = DocumentPool.of(examples, prompter)
    chosen = {row: documents for row in range(len(examples)) if (documents := pool.several(row, arguments.documents))}
    answers, times = [], []
    with progress_bars() as (show, _):
        all_prepared = [model.prepare(text) for text in pool.texts]
        for done, (row, documents) in enumerate(chosen.items(), 1):
            prompt = prompter.prompt(examples[row])
            together = prompter.knowledge("\n".join(pool.texts[document] for document in documents))
            (whole,) = truncate_knowledge(
                [dataclasses.replace(prompt, knowledge=together)], None, window(model.decoder) - MAX_TOKENS
            )
            prepared = [all_prepared[document] for document in documents]
            place = documents.index(pool.document_of[row])
            numbers = relevant(model, prompt.anchor + prompt.input, prepared)
            known: dict[str, Knowledge] = {
                "chosen": [prepared],
                "all": PreparedKnowledge.join(prepared),
                "own": prepared[place],
            }
            target = str(prompter.tokenizer.decode(list(prompt.target), skip_special_tokens=True)).strip()
            texts = texts_of(model, prompt, whole, known)
            if done <= TIMED:
                times.append(seconds_of(model, prompt, whole, known))
            answers.append({"target": target, "read": len(numbers), "found": place in numbers, **texts})
            show("answering", done, len(chosen))
    reader = {"bank": str(bank)} if arguments.decoder is None else {"decoder": Path(arguments.decoder).name}
    settings = {**reader, "format": model.config.format, "data": arguments.data.name, "documents": arguments.documents}
    means = {name: sum(answer[name] for answer in answers) / len(answers) for name in ("found", "read")}
    first_token = {way: statistics.median(seconds[way] for seconds in times) for way in WAYS}
    figures = {"n": len(answers), **means, "scores": scores_of(answers), "first_token": first_token}
    write_json(arguments.json, {**settings, **figures, "answers": answers})
    print(figures)


if __name__ == "__main__":
    main()
