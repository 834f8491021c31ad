"""E-mail: the header lines that a reader sees, the text, and the names of attachments."""

from email import message_from_bytes
from email.message import EmailMessage
from email.policy import default
from pathlib import Path

from diekae.readers.base import Unreadable, one_line
from diekae.readers.pages import markdown_of

HEADERS = ("From", "To", "Cc", "Date", "Subject")
"""Header lines that are kept."""


def read_mail(path: Path) -> str:
    """Return an e-mail: its header and its plain text, or its HTML as Markdown if it has no plain text."""
    message = message_from_bytes(path.read_bytes(), policy=default)
    header = [f"{name}: {one_line(str(message[name]))}" for name in HEADERS if message[name]]
    if not header:
        raise Unreadable(f"is not an e-mail: it has none of {', '.join(HEADERS)}; if it is a text, name it .txt.")
    names = [part.get_filename() or part.get_content_type() for part in message.iter_attachments()]
    attached = [f"Attachments, not read: {', '.join(map(one_line, names))}"] if names else []
    return "\n\n".join(["\n".join(header + attached), _body(message)])


def _body(message: EmailMessage) -> str:
    """Return the text of a message; an empty text if there is none."""
    for kind in ("plain", "html"):
        part = message.get_body((kind,))
        if part is not None and (text := str(part.get_content())).strip():
            return markdown_of(text) if kind == "html" else text
    payload = message.get_payload()
    # A multipart message that was cut off before its first part has its text as payload.
    return payload if message.get_content_maintype() == "multipart" and isinstance(payload, str) else ""
