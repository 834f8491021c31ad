"""What MkDocs calls while it builds the site."""

import re
from typing import Any

_ROLE = re.compile(r":(?:attr|class|data|func|meth|mod):<code>~?([^<]+)</code>")


def on_page_content(html: str, **_: Any) -> str:
    """Write the roles of docstrings, such as :class:`Name`, as code: Markdown does not know them."""
    return _ROLE.sub(r"<code>\1</code>", html)
