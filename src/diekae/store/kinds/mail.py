"""E-mail: the head that a reader sees, the text, and the names of what is attached."""

from __future__ import annotations

from email import message_from_bytes
from email.message import EmailMessage
from email.policy import default
from pathlib import Path

from diekae.store.kinds.base import Unreadable, one_line
from diekae.store.kinds.pages import markdown_of

HEAD = ("From", "To", "Cc", "Date", "Subject")
"""Lines of the head that are kept."""


def read_mail(path: Path) -> str:
    """Return an e-mail; its plain text where it has one, else its HTML as Markdown.

    Raises:
        Unreadable: It has none of the lines that a head has.
    """
    message = message_from_bytes(path.read_bytes(), policy=default)
    head = [f"{name}: {one_line(str(message[name]))}" for name in HEAD if message[name]]
    if not head:
        raise Unreadable(f"is no e-mail: it has none of {', '.join(HEAD)}; if it is a text, name it .txt.")
    names = [part.get_filename() or part.get_content_type() for part in message.iter_attachments()]
    attached = [f"Attachments, not read: {', '.join(map(one_line, names))}"] if names else []
    return "\n\n".join(["\n".join(head + attached), _body(message)])


def _body(message: EmailMessage) -> str:
    """Return the text; nothing where there is none."""
    for kind in ("plain", "html"):
        part = message.get_body((kind,))
        if part is not None and (text := str(part.get_content())).strip():
            return markdown_of(text) if kind == "html" else text
    whole = message.get_payload()
    return whole if message.get_content_maintype() == "multipart" and isinstance(whole, str) else ""  # cut off
