"""`python -m diekae` is the command line."""

from diekae.cli import app

app()
