"""The names of what a store keeps in its folder. They are part of its format, so they stay."""

import os
import re
from pathlib import Path

CATALOGUE = "catalogue.sqlite"
"""The file of the catalogue."""
PREPARED = "memories"
"""The folder of the files of prepared knowledge."""
# Stores of older versions have no folder of two digits between the bank's folder and the file.
_FILE = re.compile(rf"{PREPARED}/[\w-]+/(?:[0-9a-f]{{2}}/)?[\w-]+\.safetensors", re.ASCII)


def prepared_path(bank: str, document: str, name: str) -> str:
    """Return the path, in the store's folder, of a new file of prepared knowledge with a unique name.

    The first two digits of the document's id are a folder, so that no folder holds very many files.
    """
    return f"{PREPARED}/{bank}/{document[:2]}/{document[:16]}-{name}.safetensors"


def path_in_store(folder: Path, file: str) -> Path:
    """Return the path of a file of prepared knowledge, which the catalogue has as a path in the store's folder.

    A store may come from someone else. Its catalogue must not make us read or delete files elsewhere.

    Raises:
        ValueError: It is not the name of such a file, or leads through a link.
    """
    path = folder / file
    inside = _FILE.fullmatch(file) and os.path.realpath(path) == os.path.join(os.path.realpath(folder), file)
    if not inside:
        raise ValueError(f"{file!r} is not a file in the store {str(folder)!r}, or is a link; nothing is read there.")
    return path
