"""Give a frozen language model knowledge without spending its context."""
