"""Training for edits, their measurement, and the paper's methods that they are compared with."""
