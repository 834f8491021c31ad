"""The command line as `python -m diekae`."""

from diekae.cli import app

app()
