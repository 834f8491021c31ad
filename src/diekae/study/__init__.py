"""A bank of one's own: from a decoder and a folder of documents, without any data set."""

from diekae.study.run import StudyOptions, run_study

__all__ = ["StudyOptions", "run_study"]
