"""Pages: HTML as Markdown, by Beautiful Soup and markdownify, and PDF as text, by pypdf."""

from pathlib import Path
from typing import Any

from diekae.readers.base import Unreadable, need
from diekae.readers.hidden import hidden_elements

INVISIBLE = ("script", "style", "noscript", "template", "head", "svg", "iframe")
"""HTML elements whose text a browser does not show."""
LARGEST_HTML = 10 * 10**6
"""Most bytes of HTML: about a minute of work."""
PAGES = 2000
"""Most pages of a PDF."""


def read_html(path: Path) -> str:
    """Return what a browser shows of an HTML file, as Markdown; raises as :func:`markdown_of`."""
    return markdown_of(path.read_bytes())


def markdown_of(html: str | bytes) -> str:
    """Return what a browser shows of HTML, as Markdown; bytes are decoded as the page declares."""
    if len(html) > LARGEST_HTML:
        raise Unreadable(
            f"has {len(html) / 1e6:.0f} MB of HTML, and at most {LARGEST_HTML / 1e6:.0f} MB are read; split it."
        )
    bs4, markdownify = need("bs4"), need("markdownify")
    need("lxml")
    if isinstance(html, bytes):
        declared = bs4.dammit.EncodingDetector.find_declared_encoding(html, is_html=True)
        # Before it is guessed: the guess would depend on what else is installed.
        encodings = [encoding for encoding in (declared, "utf-8") if encoding]
        decoded = bs4.UnicodeDammit(html, known_definite_encodings=encodings, is_html=True).unicode_markup
        html = decoded or html.decode("utf-8", "replace")
    # lxml, because Python's own parser takes hours for some damaged pages, and refuses others.
    soup = bs4.BeautifulSoup(html, "lxml")
    _remove(hidden_elements(soup))
    _remove(soup(INVISIBLE))
    for note in soup(string=lambda string: isinstance(string, bs4.element.PreformattedString)):
        note.extract()  # comments, and XML's declaration: markdownify would take them for text
    text: str = markdownify.MarkdownConverter(heading_style="ATX", strip=["a", "img"]).convert_soup(soup)
    return text


def _remove(elements: list[Any]) -> None:
    for element in elements:
        if not element.decomposed:  # with an element around it
            element.decompose()


def read_pdf(path: Path) -> str:
    """Return the text of a PDF, with an empty line between pages."""
    reader = need("pypdf").PdfReader(path)
    if reader.is_encrypted and not reader.decrypt(""):
        raise Unreadable("is encrypted; save it without a password.")
    if len(reader.pages) > PAGES:
        raise Unreadable(f"has {len(reader.pages):,} pages, and at most {PAGES:,} are read; split it into several.")
    text = "\n\n".join(page.extract_text() for page in reader.pages)
    if not text.strip():
        raise Unreadable("holds no text; scanned pages must go through text recognition first.")
    return text
