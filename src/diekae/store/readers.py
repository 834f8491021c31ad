"""Texts out of files: plain text and Markdown as they are, HTML as Markdown, PDF page by page.

PDF is read by pypdf, HTML by Beautiful Soup and markdownify: small, pure Python, and the extra ``documents``.
"""

from __future__ import annotations

import importlib
import re
from collections.abc import Callable
from pathlib import Path
from typing import Any

INVISIBLE = ("script", "style", "noscript", "template", "head", "svg", "iframe")
"""Elements of HTML that no reader sees."""


def _plain(path: Path) -> str:
    try:
        return path.read_text(encoding="utf-8-sig")
    except UnicodeDecodeError as error:
        raise ValueError(f"{str(path)!r} is not UTF-8 ({error}); save it as UTF-8.") from error


def _unknown(path: Path) -> str:
    text = _plain(path)
    if "\x00" in text:
        raise ValueError(f"{str(path)!r} is no text; expected plain text, or one of {', '.join(READERS)}.")
    return text


def _html(path: Path) -> str:
    soup, markdownify = _need("bs4").BeautifulSoup(path.read_bytes(), "html.parser"), _need("markdownify")
    for element in soup(INVISIBLE):
        element.decompose()
    text: str = markdownify.MarkdownConverter(heading_style="ATX", strip=["a", "img"]).convert_soup(soup)
    return text


def _pdf(path: Path) -> str:
    pypdf, errors = _need("pypdf"), _need("pypdf.errors")
    try:
        reader = pypdf.PdfReader(path)
        if reader.is_encrypted and not reader.decrypt(""):
            raise ValueError(f"{str(path)!r} is encrypted; save it without a password.")
        text = "\n\n".join(page.extract_text() for page in reader.pages)
    except (errors.PyPdfError, errors.DependencyError, KeyError, TypeError, AttributeError) as error:
        raise ValueError(f"{str(path)!r} cannot be read as PDF: {error}.") from error
    if not text.strip():
        raise ValueError(f"{str(path)!r} holds no text; scanned pages must go through text recognition first.")
    return text


READERS: dict[str, Callable[[Path], str]] = {
    ".txt": _plain,
    ".text": _plain,
    ".md": _plain,
    ".markdown": _plain,
    ".rst": _plain,
    ".html": _html,
    ".htm": _html,
    ".xhtml": _html,
    ".pdf": _pdf,
}
"""Kinds of files, by suffix."""


def read_document(path: Path, *, any_kind: bool = False) -> str:
    """Return the text of a file, without trailing blanks or runs of empty lines.

    Args:
        path: The file.
        any_kind: Read a file of a kind that is not known as plain text.

    Raises:
        FileNotFoundError: There is no such file.
        ValueError: Its kind is not known, it cannot be read, or it holds no text.
        ModuleNotFoundError: The library that reads its kind is not installed.
    """
    if not path.is_file():
        raise FileNotFoundError(f"no file at {str(path)!r}; expected a document or a folder of documents.")
    read = READERS.get(path.suffix.lower(), _unknown if any_kind else None)
    if read is None:
        raise ValueError(f"{str(path)!r} is of no kind that can be read; expected one of {', '.join(READERS)}.")
    text = "\n".join(line.rstrip() for line in read(path).replace("\x00", "").splitlines())
    text = re.sub(r"\n{3,}", "\n\n", text).strip()
    if not text:
        raise ValueError(f"{str(path)!r} holds no text.")
    return text


def find_documents(folder: Path) -> list[Path]:
    """Return all files below a folder that can be read, in order; what is hidden (.git) is passed by."""
    found = []
    for path in sorted(folder.rglob("*")):
        hidden = any(part.startswith(".") for part in path.relative_to(folder).parts)
        if not hidden and path.suffix.lower() in READERS and path.is_file():
            found.append(path)
    return found


def _need(module: str) -> Any:
    """Import what the extra ``documents`` brings.

    Raises:
        ModuleNotFoundError: It is not installed.
    """
    try:
        return importlib.import_module(module)
    except ModuleNotFoundError as error:
        raise ModuleNotFoundError(
            f"this kind of file needs {module}, which is not installed; run `pip install 'diekae[documents]'`."
        ) from error
