"""`diekae-research`: data sets, the paper's tables, benchmarks and measurements; one file a verb."""

from __future__ import annotations

from diekae.cli import Verbs, make_app, run_app

VERBS = {
    "data": "Fetch data sets, turn them into examples, and look at them.",
    "reproduce": "Measure a table or figure of the paper; earlier measurements are reused.",
    "bench": "Measure the cost of knowledge beside none, K in the prompt, and a cached prefix.",
    "curves": "Measure a bank by number of documents and by length of knowledge.",
    "answers": "Count right answers to single questions, with a bank and with K in the prompt.",
    "documents": "Answer questions from a store of ordinary documents, and count right answers.",
    "edit": "Train for editing, and measure edits against other methods.",
    "summary": "Print the tables of the documentation from stored results.",
}
"""What `diekae-research --help` says of each verb."""


class ResearchVerbs(Verbs):
    """The verbs of this package."""

    package = __name__
    verbs = VERBS


typer_app = make_app(ResearchVerbs, "Data sets, baselines, the paper's tables and benchmarks for diekae.")


def app() -> None:
    """Run `diekae-research`."""
    run_app(typer_app)
