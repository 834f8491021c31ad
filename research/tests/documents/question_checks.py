"""Check documents.json and languages.json: their structure, their answers and the wording of their questions."""

from __future__ import annotations

import re
from collections import Counter
from collections.abc import Iterator
from typing import Any

from diekae.evaluation.answers import normalize, right
from diekae_research.documents.questions import PLAIN_KINDS

PLAIN_QUESTIONS = 10
"""Questions of a document that ask for a name, a number or a phrase."""
KINDS = {"yes_no": 1, "two_facts": 1, "paraphrase": 2, "unanswerable": 2}
"""A document's other questions. The first unanswerable one is on its subject, the second on no document's."""
SPLITS = {"development": 10, "test": 10}
LANGUAGES = {"de": 12, "fr": 12, "zh": 12, "ar": 12}
LENGTHS = {"zh": range(100, 201)}
"""Characters of a passage; other languages have 60 to 120 words."""
FUNCTION_WORDS = frozenset(
    "a about above after all also am an and any are as at be because been before below between but by can could did do "
    "does down during each else for from get gets give gives had has have he her his how i if in is it its made make "
    "makes many may me more most much must my next no not of off on once one or our out over own people put she should "
    "so some something such than that the their them then there they thing this to too until up us use used was we "
    "were what when where which while who whom whose why will with would you your".split()
)


def problems(documents: list[dict[str, Any]], passages: list[dict[str, Any]]) -> Iterator[str]:
    """Yield all that is wrong in both files."""
    questions = [question for row in [*documents, *passages] for question in row["questions"]]
    yes_no = Counter(str(question["answers"]) for question in questions if question.get("kind") == "yes_no")
    counts = {
        "splits": (Counter(document["split"] for document in documents), SPLITS),
        "languages": (Counter(passage["language"] for passage in passages), LANGUAGES),
        "yes_no": (yes_no, {"['yes']": len(documents) // 2, "['no']": len(documents) // 2}),
    }
    yield from (f"{name}: {dict(have)}, not {want}" for name, (have, want) in counts.items() if have != want)
    times = Counter(question["question"] for question in questions)
    yield from (f"asked twice: {question}" for question, count in times.items() if count > 1)
    vocabularies = [words(document["title"] + " " + document["text"]) for document in documents]
    for number, document in enumerate(documents):
        others = set().union(*vocabularies[:number], *vocabularies[number + 1 :])
        yield from (f"{document['id']}: {problem}" for problem in document_problems(document, others))
    for passage in passages:
        name = f"{passage['language']}, {passage['text'][:30]}"
        yield from (f"{name}: {problem}" for problem in passage_problems(passage))


def document_problems(document: dict[str, Any], others: set[str]) -> Iterator[str]:
    """Yield what is wrong with one document; ``others`` are the content words of all other documents."""
    kinds = Counter(question["kind"] for question in document["questions"])
    plain = sum(kinds.pop(kind, 0) for kind in PLAIN_KINDS)
    if plain != PLAIN_QUESTIONS or kinds != KINDS:
        yield f"has {plain} plain questions and {dict(kinds)}"
    distinctive = words(document["title"] + " " + document["text"]) - others
    for question in document["questions"]:
        text, kind, answers = question["question"], question["kind"], question["answers"]
        yield from (f"{text} {problem}" for problem in answer_problems(question))
        if kind in (*PLAIN_KINDS, "paraphrase") and not right(document["text"], answers[:1]):
            yield f"{text} The answer is not in the text: {answers[0]}"
        if kind == "paraphrase" and (shared := shared_words(text, answers[0], document["text"])):
            yield f"{text} Shares words with the answer's sentence: {shared}"
        far = question is document["questions"][-1]
        if not far and not words(text) & distinctive:
            yield f"{text} No word points to this document rather than another"
        if far and words(text) & distinctive:
            yield f"{text} A far question has words of this document: {words(text) & distinctive}"


def passage_problems(passage: dict[str, Any]) -> Iterator[str]:
    """Yield what is wrong with one passage in another language."""
    language, text = passage["language"], passage["text"]
    length = len(text) if language in LENGTHS else len(text.split())
    if length not in LENGTHS.get(language, range(60, 121)):
        yield f"the length is {length}"
    if [question["paraphrased"] for question in passage["questions"]] != [False, True]:
        yield "needs a question with shared words and then a paraphrased one"
    size = 2 if language == "zh" else 4
    shares = []
    for question in passage["questions"]:
        parts = pieces(question["question"], size)
        shares.append(len(parts & pieces(text, size)) / len(parts))
        yield from (f"{question['question']} {problem}" for problem in answer_problems(question))
        if normalize(question["answers"][0]) not in normalize(text):
            yield f"{question['question']} The answer is not in the text: {question['answers'][0]}"
    if shares[0] < shares[1] + 0.2:
        yield f"the paraphrased question shares too much with the text: {shares[1]:.2f}, the other {shares[0]:.2f}"


def answer_problems(question: dict[str, Any]) -> Iterator[str]:
    """Yield what is wrong with a question's accepted answers, whatever the text says."""
    answers = question["answers"]
    if bool(answers) == (question.get("kind") == "unanswerable"):
        yield "answers must be empty for an unanswerable question, and only for one"
    if question.get("kind") == "yes_no" and answers not in (["yes"], ["no"]):
        yield f"answers are {answers}, not ['yes'] or ['no']"
    forms = [normalize(answer) for answer in answers]
    if len(set(forms)) < len(forms) or "" in forms:
        yield f"two of the answers are equal after normalisation, or one is empty: {answers}"


def shared_words(question: str, answer: str, text: str) -> set[str]:
    """Return the content words, names aside, that a question shares with the sentences that hold its answer."""
    sentences = re.split(r"(?<=[.!?])\s+|\n+", text)
    answering = " ".join(sentence for sentence in sentences if right(sentence, [answer]))
    return words(question, names=False) & words(answering)


def words(text: str, names: bool = True) -> set[str]:
    """Return the stems of a text's content words; without ``names``, only of those in lower case."""
    every = re.findall(r"[^\W_]+(?:['’.,:][^\W_]+)*['’]?", text.replace("-", " "))
    content = [word for word in every if (names or word[0].islower()) and word.lower() not in FUNCTION_WORDS]
    return {stem(word) for word in content}


def stem(word: str) -> str:
    """Return a word in lower case without a common English ending."""
    return re.sub(r"(?<=...)(ings?|ed|ers?|es|s|ly|e)$", "", re.sub(r"['’]s?$", "", word.lower()))


def pieces(text: str, length: int) -> set[str]:
    """Return all pieces of ``length`` letters of a text's words."""
    return {run[at : at + length] for run in re.findall(r"\w+", text.lower()) for at in range(len(run) - length + 1)}
