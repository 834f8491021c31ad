"""Editing: make the decoder state new facts. Each edit can be reverted; where none applies, the output is unchanged."""

from diekae.edit.attach import edit_model, load_edits
from diekae.edit.edit import Edit, make_edit, read_edits
from diekae.edit.edits import Edits

__all__ = ["Edit", "Edits", "edit_model", "load_edits", "make_edit", "read_edits"]
