"""What do documents do to questions that they say nothing about?

Each question asks for common knowledge, or for no knowledge at all, while four documents are listed. It is answered in
three ways: without documents (``bare``); from the documents that ``generate`` chooses, which may be none (``chosen``);
and from the one with the best gain, whatever its gain is (``best``). ``none`` counts the questions for which no
document is chosen. ``lost`` counts the data set's own questions for which none is chosen although theirs is among four.

    python research/experiments/unrelated_questions.py --data test.jsonl --json research/results/unrelated-facts.json
    … --decoder FOLDER
"""

from __future__ import annotations

import argparse
import random
from pathlib import Path
from typing import Any

import torch

from diekae.answering import reply
from diekae.cli.console import chosen_bank, load_model, progress_bars
from diekae.data import read_examples
from diekae.evaluation import answers
from diekae.knowledge import Knowledge
from diekae.model import DiekaeModel
from diekae.model.relevance import gains, relevant
from diekae.provenance import write_json

QUESTIONS: list[tuple[str, list[str]]] = [
    ("What is the capital of France?", ["Paris"]),
    ("What is the capital of Japan?", ["Tokyo"]),
    ("What is the capital of Italy?", ["Rome"]),
    ("What is the capital of Spain?", ["Madrid"]),
    ("What is the capital of Germany?", ["Berlin"]),
    ("How many days are in a week?", ["7", "seven"]),
    ("How many months are in a year?", ["12", "twelve"]),
    ("How many legs does a spider have?", ["8", "eight"]),
    ("How many continents are there?", ["7", "seven"]),
    ("What is 2 plus 2?", ["4", "four"]),
    ("Who wrote Romeo and Juliet?", ["Shakespeare"]),
    ("Who painted the Mona Lisa?", ["Leonardo", "da Vinci"]),
    ("Who was the first president of the United States?", ["Washington"]),
    ("What is the largest planet in the solar system?", ["Jupiter"]),
    ("Which planet is known as the red planet?", ["Mars"]),
    ("Which ocean is the largest?", ["Pacific"]),
    ("What is the chemical symbol for water?", ["H2O"]),
    ("What colour do you get when you mix blue and yellow?", ["green"]),
    ("What is the opposite of hot?", ["cold"]),
    ("What do bees make?", ["honey"]),
    ("What is the freezing point of water in degrees Celsius?", ["0", "zero"]),
    ("What language is spoken in Brazil?", ["Portuguese"]),
    ("What is the currency of Japan?", ["yen"]),
    ("What gas do plants take in from the air?", ["carbon dioxide", "CO2"]),
    ("What is the largest animal on earth?", ["blue whale"]),
    ("In which country are the pyramids of Giza?", ["Egypt"]),
    ("What is the first month of the year?", ["January"]),
    ("What is the name of the fairy tale about a girl with a glass slipper?", ["Cinderella"]),
    ("Translate 'good morning' into French.", ["bonjour"]),
    ("Write a function in Python that adds two numbers.", ["def"]),
]
DOCUMENTS, OWN, TOKENS, SEED = 4, 60, 32, 0


def measure(model: DiekaeModel, texts: list[str], question: str, forms: list[str]) -> dict[str, Any]:
    """Answer one question in all ways from these documents."""
    documents = [model.prepare(text) for text in texts]
    tokens = model.tokenize(question)["input_ids"][0].tolist()
    values = gains(model, tokens, documents)
    read = len(relevant(model, tokens, documents))
    known: dict[str, Knowledge] = {"bare": None, "chosen": [documents], "best": documents[values.index(max(values))]}
    said = {way: reply(model, question, knowledge, max_new_tokens=TOKENS) for way, knowledge in known.items()}
    right = {way: bool(answers.right(text, forms)) for way, text in said.items()}
    return {"question": question, "gain": max(values), "read": read, "right": right, **said}


@torch.no_grad()
def main() -> None:
    """Measure, and write the figures with all answers."""
    parser = argparse.ArgumentParser(description=(__doc__ or "").partition("\n")[0])
    parser.add_argument("--data", type=Path, required=True, help="JSON Lines of questions with one document each")
    parser.add_argument("--decoder", help="folder of a decoder that reads exactly, in place of a bank")
    parser.add_argument("--json", type=Path, required=True, help="where the figures are written")
    arguments = parser.parse_args()
    bank = chosen_bank(None, arguments.decoder, Path("smollm2-exact"))
    model = load_model(bank, "auto", "auto", decoder=arguments.decoder, format="chat")
    examples = [example for example in read_examples(arguments.data, None) if len(example.knowledge) == 1]
    texts = list(dict.fromkeys(example.knowledge[0] for example in examples))
    draw, rows, lost = random.Random(SEED), list[dict[str, Any]](), 0
    with progress_bars() as (show, _):
        for done, (question, forms) in enumerate(QUESTIONS, 1):
            rows.append(measure(model, draw.sample(texts, DOCUMENTS), question, forms))
            show("answering", done, len(QUESTIONS))
        for done, example in enumerate(examples[:OWN], 1):
            own = example.knowledge[0]
            listed = [own, *draw.sample([text for text in texts if text != own], DOCUMENTS - 1)]
            tokens = model.tokenize(example.input)["input_ids"][0].tolist()
            lost += not relevant(model, tokens, [model.prepare(text) for text in listed])
            show("choosing", done, len(examples[:OWN]))
    figures: dict[str, Any] = {"n": len(rows), "none": sum(not row["read"] for row in rows)}
    figures["right"] = {way: sum(row["right"][way] for row in rows) for way in ("bare", "chosen", "best")}
    figures |= {"own_questions": len(examples[:OWN]), "lost": lost}
    reader = {"bank": str(bank)} if arguments.decoder is None else {"decoder": Path(arguments.decoder).name}
    settings = {**reader, "format": "chat", "data": arguments.data.parent.name, "documents": DOCUMENTS, "seed": SEED}
    write_json(arguments.json, {**settings, **figures, "answers": rows})
    print(figures)


if __name__ == "__main__":
    main()
