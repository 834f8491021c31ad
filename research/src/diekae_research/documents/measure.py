"""Answers from a store of ordinary documents: right, wrong and empty by kind of question.

The ways of knowing the documents are:

- ``ours``: :func:`diekae.answering.ask` finds the passages in the store and reads them, as it does for users;
- ``bare``: nothing is known;
- ``prompt``: the same passages as text in the prompt;
- ``whole`` and ``prompt_whole``: all of the right document, injected and in the prompt.

Nothing is chosen on the split ``test``.
"""

from __future__ import annotations

import time
from collections.abc import Iterator, Sequence
from typing import Any, Literal, get_args

import torch
from sklearn.metrics import roc_auc_score

from diekae.answering import ask, pick, reply
from diekae.answering.answer import CANDIDATES, PASSAGES
from diekae.answering.confidence import Confidence
from diekae.data.example import Example
from diekae.evaluation import answers
from diekae.model import DiekaeModel
from diekae.progress import Progress, silent
from diekae.store import FoundPassage, KnowledgeStore
from diekae.store.catalogue import document_id
from diekae_research.documents.figures import summary
from diekae_research.documents.questions import (
    PLAIN_KINDS,
    found_answer,
    is_right,
    passages_answer,
    questions_of,
    read_rows,
)

StoreWay = Literal["bare", "prompt_whole", "whole", "prompt", "ours"]
"""How the documents are known; see above."""
ANSWER_TOKENS = 48
"""Longest answer."""
RANKS = (1, 3, 5)
"""Passages among which search should have the right one."""
TIMED = 24
"""Questions of which the times of the search and to the first token are taken."""


def fill_store(store: KnowledgeStore, more_texts: Sequence[str] = (), progress: Progress = silent) -> dict[str, str]:
    """Put all documents and passages into a store, without preparing them.

    Args:
        store: An empty store.
        more_texts: Texts that make search harder.
        progress: Called as the work goes on.

    Returns:
        The name of each document in this benchmark, by its id in the store.
    """
    names = {row["text"]: row["id"] for row in read_rows("documents")}
    names |= {row["text"]: f"{row['language']}-{number}" for number, row in enumerate(read_rows("languages"))}
    store.add([*names, *more_texts], prepare=False, progress=progress)
    return {document_id(text): name for text, name in names.items()}


def texts_of(examples: Sequence[Example]) -> list[str]:
    """Return the knowledge of examples, each text once; several documents of an example are one text."""
    return list(dict.fromkeys("\n".join(example.knowledge) for example in examples if example.knowledge))


def measure_documents(
    model: DiekaeModel,
    store: KnowledgeStore,
    names: dict[str, str],
    *,
    split: str = "test",
    ways: Sequence[StoreWay] = get_args(StoreWay),
    passages: int = PASSAGES,
    limit: int | None = None,
    progress: Progress = silent,
) -> dict[str, Any]:
    """Measure search, what is said not to be in the documents, and the answers in every way.

    Args:
        model: Decoder and bank.
        store: The documents.
        names: What :func:`fill_store` returned.
        split: ``development`` or ``test``.
        ways: Some of :data:`StoreWay`; without any, search and silence alone are measured.
        passages: Passages that are read.
        limit: Questions that are answered, at most.
        progress: Called as the work goes on.

    Returns:
        ``recall``, ``silence``, ``search``, the summary of each of the ``ways``, ``first_token`` and
        ``same_words_whole`` where their ways are measured, and all ``answers``.
    """
    figures: dict[str, Any] = {"recall": recall(store, names, split), "silence": silence(model, store, split)}
    figures["search"] = search_time(store, [question["question"] for _, question in questions_of(split)[:TIMED]])
    pairs = questions_of(split, limit) if ways else []
    rows: list[dict[str, Any]] = []
    for done, (document, question) in enumerate(pairs, start=1):
        row: dict[str, Any] = {**question, "document": document["id"]}
        for way in ways:
            row[way] = answer(model, store, way, document["text"], question["question"], passages)
            row[way]["right"] = is_right(row[way]["text"], question)
        if "ours" in ways:
            row["ours"]["document"] = names.get(row["ours"]["document"])
        rows.append(row)
        progress("questions", done, len(pairs))
    figures["ways"] = {way: summary(rows, way) for way in ways}
    if "ours" in ways:
        figures["first_token"] = first_token(model, store, [question["question"] for _, question in pairs[:TIMED]])
    if {"whole", "prompt_whole"} <= set(ways):
        same = [row["whole"]["text"] == row["prompt_whole"]["text"] for row in rows]
        figures["same_words_whole"] = sum(same) / len(rows)
    return {**figures, "answers": rows}


def answer(
    model: DiekaeModel, store: KnowledgeStore, way: StoreWay, text: str, question: str, passages: int = PASSAGES
) -> dict[str, Any]:
    """Answer a question in one way.

    Args:
        model: Decoder and bank.
        store: The documents.
        way: One of :data:`StoreWay`.
        text: The document that the question is about.
        question: What is asked.
        passages: Passages that are read.

    Returns:
        ``text`` and ``seconds``; for ``ours`` also ``answered``, ``confidence`` and the ``document`` that was read.
    """
    if way == "ours":
        ours = ask(model, question, store, passages=passages, max_new_tokens=ANSWER_TOKENS)
        return {
            "text": ours.text,
            "answered": ours.answered,
            "confidence": ours.confidence,
            "document": ours.sources[0].id if ours.sources else None,
            "seconds": ours.seconds,
        }
    prepared = store.prepared(document_id(text)) if way == "whole" else None  # preparing is not timed
    began = time.perf_counter()
    if way == "prompt":
        text = "\n\n".join(passage.text for passage in pick(store, question, passages))
    if way in ("bare", "whole"):
        words = reply(model, question, prepared, max_new_tokens=ANSWER_TOKENS)
    else:
        words = answer_from_prompt(model, text, question)
    return {"text": words, "seconds": time.perf_counter() - began}


def answer_from_prompt(model: DiekaeModel, text: str, question: str) -> str:
    """Answer a question greedily with a text in the prompt."""
    prompt = model.need_prompter().prompt(Example((text,), question, "-"))
    ids = torch.tensor([prompt.anchor + prompt.knowledge + prompt.input], device=model.device)
    tokenizer = model.need_prompter().tokenizer
    generated = model.decoder.generate(  # type: ignore[operator]
        input_ids=ids,
        attention_mask=torch.ones_like(ids),
        max_new_tokens=ANSWER_TOKENS,
        min_new_tokens=1,
        do_sample=False,
        pad_token_id=tokenizer.pad_token_id,
    )
    words = str(tokenizer.decode(generated[0, ids.shape[1] :], skip_special_tokens=True)).strip()
    return words if model.config.format == "chat" else words.split("\n")[0]


def recall(store: KnowledgeStore, names: dict[str, str], split: str) -> dict[str, Any]:
    """Return how often a passage with the answer is among the best ones, by kind of question and language."""
    wording = {True: "paraphrased", False: "words shared"}
    questions = [
        (wording[question["kind"] == "paraphrase"], document["id"], question["question"], question["answers"])
        for document, question in questions_of(split)
        if question["kind"] in (*PLAIN_KINDS, "paraphrase")
    ]
    for number, row in enumerate(read_rows("languages")):
        for question in row["questions"]:
            kind = f"{row['language']}, {wording[question['paraphrased']]}"
            questions.append((kind, f"{row['language']}-{number}", question["question"], []))
    hits: dict[str, list[list[bool]]] = {}
    for kind, document, text, accepted in questions:
        right = [
            names.get(passage.id) == document and (not accepted or bool(answers.right(passage.text, accepted)))
            for passage in store.search(text, max(RANKS))
        ]
        hits.setdefault(kind, []).append([any(right[:rank]) for rank in RANKS])
    recalls = {}
    for kind, rows in hits.items():
        shares = [sum(column) / len(rows) for column in zip(*rows, strict=True)]
        names_of_ranks = [f"recall@{rank}" for rank in RANKS]
        recalls[kind] = {"n": len(rows), **dict(zip(names_of_ranks, shares, strict=True))}
    return recalls


def silence(model: DiekaeModel, store: KnowledgeStore, split: str) -> dict[str, Any]:
    """Return how many questions are said not to be in the documents, of how many, and the confidence's AUROC.

    All questions of the split are asked, and no answers are generated. Unanswerable questions are ``near`` (about a
    document's subject) or ``far``. Of the ``answerable`` ones, those whose answer is not in the found passages are
    counted again as ``not_found``. Where the passages hold it word for word, the question is asked again without
    them, of the next best ones of its document: ``taken_out``. The AUROC is that of answerable questions against near
    and far ones; ``auroc_taken_out`` is that of the questions with and without their passages.
    """
    counts = {kind: [0, 0] for kind in ("near", "far", "answerable", "not_found", "taken_out")}
    values: dict[str, list[float]] = {kind: [] for kind in (*counts, "found")}
    threshold = 0.0
    for text, found, kinds in _searches(store, split):
        confidence = Confidence(model, text, found)
        if found:
            confidence.read(model.tokenize(text)["input_ids"], store.read(found))
            threshold = confidence.threshold
        for kind in kinds:
            values[kind].append(confidence.value)
            if kind in counts:
                counts[kind][0] += not confidence.answered
                counts[kind][1] += 1
    return {
        "said_not_there": counts,
        "auroc": _auroc(values["answerable"], [*values["near"], *values["far"]]),
        "auroc_taken_out": _auroc(values["found"], values["taken_out"]),
        "threshold": threshold,
    }


def _searches(store: KnowledgeStore, split: str) -> Iterator[tuple[str, list[FoundPassage], tuple[str, ...]]]:
    """Yield each question of :func:`silence`, the passages to read for it, and the kinds that it counts as."""
    for document, question in questions_of(split):
        text, found = question["question"], pick(store, question["question"])
        if question["near"]:
            yield text, found, (question["near"],)
        elif not found_answer(document, question, found):
            yield text, found, ("answerable", "not_found")
        elif question["kind"] in ("yes_no", "two_facts"):
            yield text, found, ("answerable",)
        else:
            yield text, found, ("answerable", "found")
            own = [passage for passage in store.search(text, CANDIDATES) if passage.id == found[0].id]
            without = [passage for passage in own if not passages_answer(question, [passage.text])][:PASSAGES]
            if without:
                yield text, sorted(without, key=lambda passage: passage.start), ("taken_out",)


def _auroc(answered: Sequence[float], unanswered: Sequence[float]) -> float | None:
    """Return the share of pairs in which the first has the higher confidence; None if there is no pair."""
    if not answered or not unanswered:
        return None
    return float(roc_auc_score([True] * len(answered) + [False] * len(unanswered), [*answered, *unanswered]))


def search_time(store: KnowledgeStore, questions: Sequence[str]) -> dict[str, float]:
    """Return the number of passages in the store, and the median seconds of a search."""
    seconds, passages = [], 0
    for question in questions:
        began = time.perf_counter()
        passages = store.search(question)[0].searched
        seconds.append(time.perf_counter() - began)
    return {"passages": passages, "seconds": float(torch.tensor(seconds).median())}


def first_token(model: DiekaeModel, store: KnowledgeStore, questions: Sequence[str]) -> dict[str, float]:
    """Return the median seconds to the first token, of ours from a warm store and of the bare decoder."""
    times: dict[str, list[float]] = {"ours": [], "bare": []}
    for question in questions:
        for name, seconds in times.items():
            began = time.perf_counter()
            ids = model.tokenize(question)
            prepared = store.read(pick(store, question)) if name == "ours" else None
            model.generate(**ids, knowledge=prepared, max_new_tokens=1, do_sample=False)
            seconds.append(time.perf_counter() - began)
    medians = {name: float(torch.tensor(seconds).median()) for name, seconds in times.items()}
    return {**medians, "ratio": medians["ours"] / medians["bare"]}
