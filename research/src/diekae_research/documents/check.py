"""Check documents.json and languages.json: their structure, their answers and the wording of their questions.

    diekae-research documents check

Prints each problem and exits with 1 if there is one. A document has two unanswerable questions: the first is near (on
the document's subject), the second far (on a subject of no document).
"""

from __future__ import annotations

import json
import re
import string
from collections import Counter
from collections.abc import Iterator
from pathlib import Path
from typing import Any

HERE = Path(__file__).parent
KINDS = {"yes_no": 1, "two_facts": 1, "paraphrase": 2, "unanswerable": 2}
OLD_KINDS = ("name", "number", "phrase")
OLD_QUESTIONS = 10
SPLITS = {"development": 10, "test": 10}
LANGUAGES = {"de": 12, "fr": 12, "zh": 12, "ar": 12}
LENGTHS = {"zh": range(100, 201)}
PUNCTUATION = str.maketrans("", "", string.punctuation)
FUNCTION_WORDS = frozenset(
    "a about above after all also am an and any are as at be because been before below between but by can could did do "
    "does down during each else for from get gets give gives had has have he her his how i if in is it its made make "
    "makes many may me more most much must my next no not of off on once one or our out over own people put she should "
    "so some something such than that the their them then there they thing this to too until up us use used was we "
    "were what when where which while who whom whose why will with would you your".split()
)


def normalize(text: str) -> str:
    """Return the text as `diekae.evaluation.answers.normalize` does, without importing the library."""
    return " ".join(re.sub(r"\b(a|an|the)\b", " ", text.lower().translate(PUNCTUATION)).split())


def stands_in(answer: str, text: str) -> bool:
    """Return whether the answer stands in the text as whole words, both normalised."""
    return f" {normalize(answer)} " in f" {normalize(text)} "


def stem(word: str) -> str:
    """Return a word in lower case without a common English ending."""
    return re.sub(r"(?<=...)(ings?|ed|ers?|es|s|ly|e)$", "", re.sub(r"['’]s?$", "", word.lower()))


def words(text: str, names: bool = True) -> set[str]:
    """Return the stems of a text's content words; without ``names``, only those written in lower case."""
    every = re.findall(r"[^\W_]+(?:['’.,:][^\W_]+)*['’]?", text.replace("-", " "))
    kept = [word for word in every if (names or word[0].islower()) and word.lower() not in FUNCTION_WORDS]
    return {stem(word) for word in kept}


def shared(question: str, answer: str, text: str) -> set[str]:
    """Return the content words, names aside, that a question shares with the sentences that hold its answer."""
    sentences = re.split(r"(?<=[.!?])\s+|\n+", text)
    answering = " ".join(sentence for sentence in sentences if stands_in(answer, sentence))
    return words(question, names=False) & words(answering)


def pieces(text: str, length: int) -> set[str]:
    """Return all pieces of ``length`` letters of a text's words."""
    return {run[at : at + length] for run in re.findall(r"\w+", text.lower()) for at in range(len(run) - length + 1)}


def answer_problems(ask: dict[str, Any]) -> Iterator[str]:
    """Yield what is wrong with the accepted answers of one question, without a look at its text."""
    answers = ask["answers"]
    if bool(answers) == (ask.get("kind") == "unanswerable"):
        yield "answers must be empty for an unanswerable question, and only for one"
    if ask.get("kind") == "yes_no" and answers not in (["yes"], ["no"]):
        yield f"answers are {answers}, not ['yes'] or ['no']"
    forms = [normalize(answer) for answer in answers]
    if len(set(forms)) < len(forms) or "" in forms:
        yield f"a judge can't tell two of the answers apart, or reads one as empty: {answers}"


def document_problems(row: dict[str, Any], others: set[str]) -> Iterator[str]:
    """Yield what is wrong with one document; ``others`` are the content words of all other documents."""
    kinds = Counter(ask["kind"] for ask in row["questions"])
    old = sum(kinds.pop(kind, 0) for kind in OLD_KINDS)
    if old != OLD_QUESTIONS or kinds != KINDS:
        yield f"has {old} old questions and {dict(kinds)}"
    own = words(row["title"] + " " + row["text"]) - others
    for ask in row["questions"]:
        question, kind, answers = ask["question"], ask["kind"], ask["answers"]
        for problem in answer_problems(ask):
            yield f"{question} {problem}"
        if kind in (*OLD_KINDS, "paraphrase") and not stands_in(answers[0], row["text"]):
            yield f"{question} The answer doesn't stand in the text: {answers[0]}"
        if kind == "paraphrase" and shared(question, answers[0], row["text"]):
            yield f"{question} Shares words with the answer's sentence: {shared(question, answers[0], row['text'])}"
        far = ask is row["questions"][-1]
        if not far and not words(question) & own:
            yield f"{question} No word points to this document rather than another"
        if far and words(question) & own:
            yield f"{question} A far question has words of this document: {words(question) & own}"


def passage_problems(row: dict[str, Any]) -> Iterator[str]:
    """Yield what is wrong with one passage in another language."""
    language, text = row["language"], row["text"]
    length = len(text) if language in LENGTHS else len(text.split())
    if length not in LENGTHS.get(language, range(60, 121)):
        yield f"the length is {length}"
    if [ask["paraphrased"] for ask in row["questions"]] != [False, True]:
        yield "needs a question with shared words and then a paraphrased one"
    size = 2 if language == "zh" else 4
    shares = []
    for ask in row["questions"]:
        question = pieces(ask["question"], size)
        shares.append(len(question & pieces(text, size)) / len(question))
        for problem in answer_problems(ask):
            yield f"{ask['question']} {problem}"
        if normalize(ask["answers"][0]) not in normalize(text):
            yield f"{ask['question']} The answer doesn't stand in the text: {ask['answers'][0]}"
    if shares[0] < shares[1] + 0.2:
        yield f"the paraphrased question shares too much with the text: {shares[1]:.2f}, the other {shares[0]:.2f}"


def problems(documents: list[dict[str, Any]], passages: list[dict[str, Any]]) -> Iterator[str]:
    """Yield all that is wrong in both files."""
    asks = [ask for row in [*documents, *passages] for ask in row["questions"]]
    yes = Counter(str(ask["answers"]) for ask in asks if ask.get("kind") == "yes_no")
    counts = {
        "splits": (Counter(row["split"] for row in documents), SPLITS),
        "languages": (Counter(row["language"] for row in passages), LANGUAGES),
        "yes_no": (yes, {"['yes']": len(documents) // 2, "['no']": len(documents) // 2}),
    }
    yield from (f"{what}: {dict(have)}, not {want}" for what, (have, want) in counts.items() if have != want)
    repeated = [question for question, times in Counter(ask["question"] for ask in asks).items() if times > 1]
    yield from (f"asked twice: {question}" for question in repeated)
    for row in documents:
        others = set().union(*(words(other["title"] + " " + other["text"]) for other in documents if other is not row))
        yield from (f"{row['id']}: {problem}" for problem in document_problems(row, others))
    for row in passages:
        yield from (f"{row['language']}, {row['text'][:30]}: {problem}" for problem in passage_problems(row))


def main() -> None:
    """Print the counts and all problems."""
    documents, passages = (
        json.loads((HERE / name).read_text(encoding="utf-8")) for name in ("documents.json", "languages.json")
    )
    kinds = Counter(ask["kind"] for row in documents for ask in row["questions"])
    print(f"{len(documents)} documents, {sum(kinds.values())} questions: {dict(kinds)}")
    print(f"{len(passages)} passages, {sum(len(row['questions']) for row in passages)} questions in other languages")
    for kind in (*OLD_KINDS, "paraphrase"):
        counts = [
            (len(shared(ask["question"], ask["answers"][0], row["text"])), len(words(ask["question"], names=False)))
            for row in documents
            for ask in row["questions"]
            if ask["kind"] == kind
        ]
        share = sum(count for count, _ in counts) / sum(total for _, total in counts)
        print(f"{kind}: {share:.0%} of a question's content words, names aside, stand in the answer's sentence")
    reports = list(problems(documents, passages))
    print(*reports, f"{len(reports)} problems", sep="\n")
    raise SystemExit(bool(reports))


if __name__ == "__main__":
    main()
