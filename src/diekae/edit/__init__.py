"""Knowledge editing: facts that the decoder states from now on, each revertible, and nothing else changed."""

from diekae.edit.edit import Edit, make_edit, read_edits
from diekae.edit.editing import edit_model, load_edits

__all__ = ["Edit", "edit_model", "load_edits", "make_edit", "read_edits"]
