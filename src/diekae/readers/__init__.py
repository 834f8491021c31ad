"""The texts of files. Files of complex kinds are read in a process of their own, which has limited time and memory."""

from diekae.readers.reading import READERS, printable, read_document

__all__ = ["READERS", "printable", "read_document"]
