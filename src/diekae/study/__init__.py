"""Trains a bank for any decoder on a folder of documents, without a data set."""

from diekae.study.run import StudyOptions, run_study

__all__ = ["StudyOptions", "run_study"]
