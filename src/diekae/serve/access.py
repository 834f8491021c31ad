"""Who may ask, and what they may read.

A key file has a line for each key: a tenant's name and the key. The tenant ``*`` reads every document and may edit.
Every other tenant reads only the documents that were uploaded with its keys.
"""

from __future__ import annotations

import hashlib
import hmac
import ipaddress
import re
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

from diekae.files import as_path

SHORTEST_KEY = 16
"""Fewest characters of a key."""
_NAME = re.compile(r"\*|[A-Za-z0-9_.-]{1,64}")


@dataclass(frozen=True)
class Tenant:
    """Who asks."""

    name: str
    """Owner of uploaded files."""
    everything: bool
    """Whether all documents may be read, and facts edited."""


OWNER = Tenant("*", True)
"""Whoever asks a server without keys, which serves this machine alone."""


class Keys:
    """The keys of a server. Only their digests are kept."""

    def __init__(self, tenants: Sequence[tuple[str, str]]) -> None:
        """Keep the digests of (tenant, key) pairs; none at all lets everyone in."""
        self._tenants = [(_digest(key), Tenant(name, name == OWNER.name)) for name, key in tenants]

    @classmethod
    def read(cls, path: Path) -> Keys:
        """Read a key file; empty lines and those that begin with ``#`` are left out.

        Raises:
            FileNotFoundError: There is no such file.
            ValueError: A line is not a name and a key, a key is short or stands there twice, or there is none.
        """
        if not as_path(path).is_file():
            raise FileNotFoundError(f"no key file at {str(path)!r}; write a tenant's name and a key on each line.")
        pairs: list[tuple[str, str]] = []
        for number, line in enumerate(path.read_text(encoding="utf-8").splitlines(), start=1):
            words = line.split()
            if not words or words[0].startswith("#"):
                continue
            place = f"line {number} of {str(path)!r}"
            if len(words) != 2 or not _NAME.fullmatch(words[0]):
                raise ValueError(f"{place} must be a tenant's name (letters, digits, . _ -; or *) and a key.")
            if len(words[1]) < SHORTEST_KEY:
                raise ValueError(f"the key on {place} is shorter than {SHORTEST_KEY} characters; choose a longer one.")
            if words[1] in (key for _, key in pairs):
                raise ValueError(f"the key on {place} is on an earlier line too; give each tenant a key of its own.")
            pairs.append((words[0], words[1]))
        if not pairs:
            raise ValueError(f"{str(path)!r} holds no key; write a tenant's name and a key on a line.")
        return cls(pairs)

    def __bool__(self) -> bool:
        return bool(self._tenants)

    def tenant(self, authorization: str | None) -> Tenant | None:
        """Return who sent an ``Authorization`` header; None if the key is missing or wrong.

        Every key is compared in constant time, and all of them are, so time says nothing about them.
        """
        if not self._tenants:
            return OWNER
        scheme, _, key = (authorization or "").partition(" ")
        digest, tenant = _digest(key.strip()), None
        for known, owner in self._tenants:
            if hmac.compare_digest(known, digest) and scheme.lower() == "bearer":
                tenant = owner
        return tenant


def check_host(host: str, keys: Keys) -> None:
    """Refuse to serve other machines than this one without keys, by a ValueError."""
    if not keys and not is_loopback(host):
        raise ValueError(
            f"--host {host} lets other machines in, and there is no key; give --api-key-file FILE, or serve 127.0.0.1."
        )


def is_loopback(host: str) -> bool:
    """Tell whether a name or address is this machine's own."""
    try:
        return host == "localhost" or ipaddress.ip_address(host).is_loopback
    except ValueError:
        return False


def _digest(key: str) -> bytes:
    return hashlib.sha256(key.encode("utf-8", "surrogatepass")).digest()
