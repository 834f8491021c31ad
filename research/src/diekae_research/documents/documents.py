"""Answers from ordinary documents: right, wrong and empty by kind of question, in every way of knowing them.

    diekae-research documents [--split test] [--decoder NAME] [--bank NAME] [--ways …] [--json PATH]
    diekae-research documents --calibrate      # the confidence's weights, from the development questions

All documents lie in one store, and `diekae.answering.ask` finds and reads as it does for users (``ours``). Beside
it: ``bare`` knows nothing; ``prompt`` has the same passages as text in its prompt; ``whole`` and ``prompt_whole`` read
all of the right document, as slots and in the prompt. Nothing is chosen on the test half.
"""

from __future__ import annotations

import argparse
import json
import math
import random
import sys
import tempfile
import time
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import torch
from torch import Tensor
from torch.nn import functional as F

from diekae.answering import ask, confidence_of, pick
from diekae.answering.answer import PASSAGES, reply
from diekae.answering.confidence import THRESHOLD
from diekae.data.example import Example
from diekae.evaluation import answers
from diekae.model import DiekaeModel
from diekae.models import DTYPES, load_decoder, settled_device, settled_dtype
from diekae.store import KnowledgeStore
from diekae.store.intake import document_id
from diekae_research.provenance import write_json

HERE = Path(__file__).parent
WAYS = ("bare", "prompt_whole", "whole", "prompt", "ours")
PLAIN = ("name", "number", "phrase")
MOST = 48
"""Tokens of an answer."""


def documents() -> list[dict[str, Any]]:
    """Return the documents with their questions."""
    found: list[dict[str, Any]] = json.loads((HERE / "documents.json").read_text(encoding="utf-8"))
    return found


def languages() -> list[dict[str, Any]]:
    """Return the passages in other languages."""
    found: list[dict[str, Any]] = json.loads((HERE / "languages.json").read_text(encoding="utf-8"))
    return found


def fill(store: KnowledgeStore, more: Sequence[str]) -> dict[str, str]:
    """Put everything into a store, without preparing it; returns each document's id in the benchmark by that there."""
    own = {row["text"]: row["id"] for row in documents()}
    own |= {row["text"]: f"{row['language']}-{number}" for number, row in enumerate(languages())}
    store.add([*own, *more], prepare=False)
    return {document_id(text): name for text, name in own.items()}


def judge(text: str, question: dict[str, Any]) -> bool:
    """Tell whether an answer is right: it holds an accepted form; yes or no must be its first word."""
    if question["kind"] == "yes_no":
        return answers.normalize(text).split()[:1] == question["answers"]
    return bool(answers.right(text, question["answers"]))


def prompted(model: DiekaeModel, text: str, question: str) -> str:
    """Answer with a text in the prompt."""
    prompt = model.need_prompter().prompt(Example((text,), question, "-"))
    ids = torch.tensor([prompt.anchor + prompt.knowledge + prompt.input], device=model.device)
    tokenizer = model.need_prompter().tokenizer
    made = model.decoder.generate(
        input_ids=ids,
        attention_mask=torch.ones_like(ids),
        max_new_tokens=MOST,
        min_new_tokens=1,
        do_sample=False,
        pad_token_id=tokenizer.pad_token_id,
    )
    said = str(tokenizer.decode(made[0, ids.shape[1] :], skip_special_tokens=True)).strip()
    return said if model.config.format == "chat" else said.split("\n")[0]


class Asker:
    """Answers one question in any way."""

    def __init__(self, model: DiekaeModel, store: KnowledgeStore, passages: int) -> None:
        """Remember who answers, and from what."""
        self.model, self.store, self.passages = model, store, passages

    def __call__(self, way: str, text: str, question: str) -> dict[str, Any]:
        """Answer a question, whose document is a text, in one way; returns what was said, and figures."""
        began = time.perf_counter()
        found: dict[str, Any] = {}
        if way == "ours":
            answer = ask(self.model, question, self.store, passages=self.passages, max_new_tokens=MOST)
            found = {"text": answer.text, "answered": answer.answered, "confidence": answer.confidence}
            found["document"] = answer.sources[0].id if answer.sources else None
            return {**found, "seconds": answer.seconds}
        if way == "bare":
            found["text"] = reply(self.model, question, max_new_tokens=MOST)
        elif way == "whole":
            prepared = self.store.prepared(document_id(text))
            began = time.perf_counter()
            found["text"] = reply(self.model, question, prepared, max_new_tokens=MOST)
        else:
            if way == "prompt":
                text = "\n\n".join(one.text for one in pick(self.store, question, self.passages))
            found["text"] = prompted(self.model, text, question)
        return {**found, "seconds": time.perf_counter() - began}


def summary(rows: Sequence[dict[str, Any]], way: str) -> dict[str, Any]:
    """Return how many answers are right, by kind, with the interval of the whole."""
    by_kind: dict[str, dict[str, int]] = {}
    for row in rows:
        if row["kind"] != "unanswerable":
            counts = by_kind.setdefault(row["kind"], {"right": 0, "empty": 0, "n": 0})
            counts["n"] += 1
            counts["right"] += row[way]["right"]
            counts["empty"] += not row[way]["text"]
    right, n = (sum(counts[name] for counts in by_kind.values()) for name in ("right", "n"))
    found: dict[str, Any] = {"kinds": by_kind, "right": right, "n": n, "interval": wilson(right, n)}
    found["seconds"] = sum(row[way]["seconds"] for row in rows) / len(rows)
    return found


def wilson(right: int, n: int, z: float = 1.96) -> tuple[float, float]:
    """Return the 95 % interval of a share (Wilson, 1927)."""
    share, width = right / n, z * z / n
    middle = share + width / 2
    spread = z * math.sqrt(share * (1 - share) / n + width / (4 * n))
    return (middle - spread) / (1 + width), (middle + spread) / (1 + width)


def auroc(rows: Sequence[tuple[float, bool]]) -> float:
    """Return the probability that a question that is answered has the higher confidence."""
    yes, no = ([score for score, kind in rows if kind is wanted] for wanted in (True, False))
    return sum((a > b) + (a == b) / 2 for a in yes for b in no) / max(1, len(yes) * len(no))


def questions(split: str, limit: int | None) -> list[tuple[dict[str, Any], dict[str, Any]]]:
    """Return the questions of one half with their documents; those that nothing answers say how near they are."""
    found = []
    for row in documents():
        if row["split"] == split:
            silent = [one for one in row["questions"] if one["kind"] == "unanswerable"]
            for one in row["questions"]:
                near = ("near", "far")[silent.index(one)] if one in silent else ""
                found.append((row, {**one, "near": near}))
    if limit is None or limit >= len(found):
        return found
    chosen = random.Random(0).sample(range(len(found)), limit)
    return [found[number] for number in sorted(chosen)]


def recall(store: KnowledgeStore, names: dict[str, str], split: str) -> dict[str, Any]:
    """Return how often a passage that holds the answer is among the best 1, 3 and 5."""
    asked = [
        ("paraphrased" if one["kind"] == "paraphrase" else "words shared", row["id"], one["question"], one["answers"])
        for row, one in questions(split, None)
        if one["kind"] in (*PLAIN, "paraphrase")
    ]
    for number, row in enumerate(languages()):
        for one in row["questions"]:
            kind = f"{row['language']}, {'paraphrased' if one['paraphrased'] else 'words shared'}"
            asked.append((kind, f"{row['language']}-{number}", one["question"], []))
    hits: dict[str, list[list[bool]]] = {}
    for kind, document, question, wanted in asked:
        found = store.search(question, 5)
        right = [
            names.get(one.id) == document and (not wanted or bool(answers.right(one.text, wanted))) for one in found
        ]
        hits.setdefault(kind, []).append([any(right[:k]) for k in (1, 3, 5)])
    return {
        kind: {
            "n": len(rows),
            **{f"recall@{k}": sum(row[at] for row in rows) / len(rows) for at, k in enumerate((1, 3, 5))},
        }
        for kind, rows in hits.items()
    }


def silence(store: KnowledgeStore, split: str) -> dict[str, Any]:
    """Return how many questions are said not to be in the documents, of how many, and the confidence's AUROC.

    Only finding decides it, so all questions of the half are asked. Those that nothing answers are near (about what a
    document is about) or far.
    """
    counts = {"near": [0, 0], "far": [0, 0], "answerable": [0, 0]}
    scores = []
    for _, one in questions(split, None):
        confidence = confidence_of(pick(store, one["question"]))
        row = counts[one["near"] or "answerable"]
        row[0] += confidence < THRESHOLD
        row[1] += 1
        scores.append((confidence, one["kind"] != "unanswerable"))
    return {"said_not_there": counts, "auroc": auroc(scores)}


def first_token(model: DiekaeModel, store: KnowledgeStore, asked: Sequence[str]) -> dict[str, float]:
    """Return seconds to the first token from a warm store, and of the bare decoder, the median of each."""
    times: dict[str, list[float]] = {"ours": [], "bare": []}
    for question in asked:
        for name in times:
            began = time.perf_counter()
            ids = model.tokenize(question)
            prepared = store.read(pick(store, question)) if name == "ours" else None
            model.generate(**ids, knowledge=prepared, max_new_tokens=1, do_sample=False)
            times[name].append(time.perf_counter() - began)
    middle = {name: float(torch.tensor(values).median()) for name, values in times.items()}
    return {**middle, "ratio": middle["ours"] / middle["bare"]}


def calibrate(store: KnowledgeStore) -> dict[str, Any]:
    """Fit the confidence on the development questions; returns the weights of 1, coverage and likeness."""
    signals, wanted = [], []
    for _, one in questions("development", None):
        found = pick(store, one["question"])
        signals.append([1.0, max(f.coverage for f in found), max(f.likeness for f in found)])
        wanted.append(float(one["kind"] != "unanswerable"))
    x, y = torch.tensor(signals), torch.tensor(wanted)
    weights = torch.zeros(3, requires_grad=True)
    optimizer = torch.optim.LBFGS([weights], max_iter=200, line_search_fn="strong_wolfe")

    def loss() -> Tensor:
        optimizer.zero_grad()
        value = F.binary_cross_entropy_with_logits(x @ weights, y) + 1e-4 * weights[1:].square().sum()
        value.backward()
        return value

    optimizer.step(loss)
    chances = torch.sigmoid(x @ weights).detach()
    threshold = float(chances[y == 1].quantile(0.08))
    return {
        "weights": weights.tolist(),
        "threshold": threshold,
        "auroc": auroc(list(zip(chances.tolist(), (y == 1).tolist(), strict=True))),
        "refused": float((chances[y == 1] < threshold).float().mean()),
        "said_not_there": float((chances[y == 0] < threshold).float().mean()),
    }


def parse() -> argparse.Namespace:
    """Read the command line."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--decoder", default="smollm2")
    parser.add_argument("--bank", help="a bank's folder or a shipped one's name; without it K is read exactly")
    parser.add_argument("--format", default="chat", choices=("qa", "chat"))
    parser.add_argument("--split", default="test", choices=("development", "test"))
    parser.add_argument("--ways", nargs="*", default=list(WAYS), choices=WAYS)
    parser.add_argument("--passages", type=int, default=PASSAGES)
    parser.add_argument("--limit", type=int, help="questions, drawn from a fixed seed; all by default")
    parser.add_argument("--more", type=Path, help="JSONL whose `knowledge` is put into the store too, for search")
    parser.add_argument("--calibrate", action="store_true", help="fit the confidence, and stop")
    parser.add_argument("--dtype", default="auto", choices=sorted(DTYPES))
    parser.add_argument("--device", default="auto")
    parser.add_argument("--json", type=Path)
    return parser.parse_args()


def load(given: argparse.Namespace) -> DiekaeModel:
    """Load the decoder, and the bank if one is named."""
    device = settled_device(given.device)
    decoder, tokenizer = load_decoder(given.decoder, dtype=DTYPES[given.dtype], device=device)
    if given.bank:
        return DiekaeModel.from_pretrained(given.bank, decoder, tokenizer, format=given.format)
    return DiekaeModel.exact(decoder, tokenizer, format=given.format)


def more_texts(path: Path | None) -> list[str]:
    """Return the texts that only make search harder."""
    if path is None:
        return []
    rows = [json.loads(line)["knowledge"] for line in path.read_text(encoding="utf-8").splitlines()]
    return list(dict.fromkeys("\n".join([row] if isinstance(row, str) else row) for row in rows))


def main() -> None:
    """Measure, print and write."""
    given = parse()
    model = load(given)
    settings = {key: value for key, value in vars(given).items() if key not in ("json", "more", "decoder", "bank")}
    settings |= {"decoder": Path(given.decoder).name, "bank": Path(given.bank).name if given.bank else None}
    settings |= {"dtype": settled_dtype(given.dtype, model.device), "threshold": THRESHOLD}
    with tempfile.TemporaryDirectory() as folder:
        store = KnowledgeStore(folder, model)
        names = fill(store, more_texts(given.more))
        if given.calibrate:
            found = calibrate(store)
            print(found)
        else:
            found = measure(model, store, names, given)
        if given.json:
            write_json(given.json, {"settings": settings, **found})


def measure(
    model: DiekaeModel, store: KnowledgeStore, names: dict[str, str], given: argparse.Namespace
) -> dict[str, Any]:
    """Measure search, then every way."""
    found: dict[str, Any] = {"recall": recall(store, names, given.split)}
    for kind, row in found["recall"].items():
        print(f"{kind}: " + ", ".join(f"{name} {value:.2f}" for name, value in row.items()), flush=True)
    found["silence"] = silence(store, given.split)
    print(f"said not there: {found['silence']}", flush=True)
    asked = questions(given.split, given.limit)
    rows: list[dict[str, Any]] = []
    asker = Asker(model, store, given.passages)
    began = time.perf_counter()
    for done, (document, one) in enumerate(asked, start=1):
        row: dict[str, Any] = {**one, "document": document["id"]}
        for way in given.ways:
            row[way] = asker(way, document["text"], one["question"])
            row[way]["right"] = bool(one["answers"]) and judge(row[way]["text"], one)
        if "ours" in given.ways:
            row["ours"]["document"] = names.get(row["ours"]["document"])
        rows.append(row)
        left = (time.perf_counter() - began) / done * (len(asked) - done)
        print(f"\r{done} of {len(asked)}, about {left / 60:.0f} min left  ", end="", file=sys.stderr, flush=True)
    print(file=sys.stderr)
    found["ways"] = {way: summary(rows, way) for way in given.ways}
    for way, values in found["ways"].items():
        kinds = ", ".join(f"{kind} {one['right']}/{one['n']}" for kind, one in values["kinds"].items())
        low, high = values["interval"]
        part = f"{values['right']} of {values['n']} right ({low:.0%} to {high:.0%})"
        print(f"{way}: {part}; {kinds}; {values['seconds']:.2f} s")
    if "ours" in given.ways:
        found["first_token"] = first_token(model, store, [one["question"] for _, one in asked[:24]])
        print(f"first token: {found['first_token']}")
    if {"whole", "prompt_whole"} <= set(given.ways):
        same = sum(row["whole"]["text"] == row["prompt_whole"]["text"] for row in rows)
        found["same_words_whole"] = same / len(rows)
        print(f"whole: the same words as in the prompt in {same} of {len(rows)}")
    return {**found, "answers": rows}


if __name__ == "__main__":
    main()
