"""Questions on ordinary documents, with accepted answers, and how many of them a model answers."""
