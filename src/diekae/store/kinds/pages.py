"""Pages: HTML as Markdown, by Beautiful Soup and markdownify, and PDF as text, by pypdf."""

from __future__ import annotations

from pathlib import Path

from diekae.store.kinds.base import Unreadable, need

INVISIBLE = ("script", "style", "noscript", "template", "head", "svg", "iframe")
"""HTML elements whose text a browser does not show."""
PAGES = 2000
"""Most pages of a PDF."""


def read_html(path: Path) -> str:
    """Return what a browser shows of an HTML file, as Markdown."""
    return markdown_of(path.read_bytes())


def markdown_of(html: str | bytes) -> str:
    """Return what a browser shows of HTML, as Markdown; bytes are decoded as the page declares."""
    bs4, markdownify = need("bs4"), need("markdownify")
    soup = bs4.BeautifulSoup(html, "html.parser")
    for element in soup(INVISIBLE):
        element.decompose()
    for note in soup(string=lambda string: isinstance(string, bs4.element.PreformattedString)):
        note.extract()  # comments, and XML's declaration: markdownify would take them for text
    text: str = markdownify.MarkdownConverter(heading_style="ATX", strip=["a", "img"]).convert_soup(soup)
    return text


def read_pdf(path: Path) -> str:
    """Return the text of a PDF, with an empty line between pages.

    Raises:
        Unreadable: The file is encrypted, has too many pages, or holds no text.
    """
    reader = need("pypdf").PdfReader(path)
    if reader.is_encrypted and not reader.decrypt(""):
        raise Unreadable("is encrypted; save it without a password.")
    if len(reader.pages) > PAGES:
        raise Unreadable(f"has {len(reader.pages):,} pages, and at most {PAGES:,} are read; split it into several.")
    text = "\n\n".join(page.extract_text() for page in reader.pages)
    if not text.strip():
        raise Unreadable("holds no text; scanned pages must go through text recognition first.")
    return text
