"""Files of many kinds for tests of the readers."""

from email.message import EmailMessage
from pathlib import Path

from docx import Document
from docx.oxml import parse_xml
from docx.oxml.ns import nsdecls

from diekae.readers import read_document


def read(path: Path, content: str | bytes) -> str:
    """Write a file, and return its text as the reader gives it."""
    path.write_bytes(content.encode() if isinstance(content, str) else content)
    return read_document(path)


def word_file(path: Path, *parts: tuple[str, str] | str) -> Path:
    """Write a Word file of paragraphs, (style, text) each, and of elements in XML."""
    document = Document()
    for part in parts:
        if isinstance(part, tuple):
            document.add_paragraph(part[1], style=part[0])
        else:
            xml = parse_xml(part.replace(">", f" {nsdecls('w')}>", 1))
            document.element.body.insert(len(document.element.body) - 1, xml)
    document.save(str(path))
    return path


def run(text: str, how: str = "") -> str:
    """Return a run of Word, in XML."""
    return f"<w:r><w:rPr>{how}</w:rPr><w:t>{text}</w:t></w:r>"


def mail(**headers: str) -> EmailMessage:
    """Return an e-mail with these header lines."""
    message = EmailMessage()
    for name, value in headers.items():
        message[name] = value
    return message
