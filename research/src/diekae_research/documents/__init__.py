"""Questions on ordinary documents, with accepted answers, and the programs that count right answers."""
