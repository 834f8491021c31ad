"""Knowledge editing: facts that the decoder states from now on, each revertible, and nothing else changed."""

from diekae.editing.edit import Edit, make_edit, read_edits

__all__ = ["Edit", "make_edit", "read_edits"]
