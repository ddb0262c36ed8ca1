"""Create a store from a URL."""

from __future__ import annotations

from collections.abc import Collection
from typing import NamedTuple

from ..store import Store

_USER = "(//|%2F%2F)[^/?&@]+(@|%40)"
"""User and password in a URL, or in an endpoint within it. No message quotes them."""


class Address(NamedTuple):
    """The parts of a URL of a store, or of checkpoints."""

    scheme: str  # "memory", "sqlite" or "dynamodb"
    place: str  # the path of the file, or the name of the table
    options: dict[str, str]

    @property
    def connection(self) -> dict[str, str | bool | None]:
        """The options of a table that are settings of the connection to it."""
        return {
            "region_name": self.options.get("region"),
            "endpoint_url": self.options.get("endpoint"),
            "plain_http": self.options.get("plain_http") == "true",
        }


def open_store(url: str) -> Store:
    """Return the store of a URL, not yet open. Use it as `async with open_store(url) as store:`.

    - `memory://`
    - `sqlite:///relative.db` or `sqlite:////absolute.db`: the path starts after the third slash.
    - `dynamodb://table?region=…&endpoint=…&tenant=…&layout=…&plain_http=true`: all options may be left out.

    Raises ValueError for any other URL. The message names the wrong part.
    """
    address = parse_url(url, options=("tenant", "layout"))
    if address.scheme == "memory":
        from .memory import MemoryStore

        return MemoryStore()
    if address.scheme == "sqlite":
        from .sqlite.store import SQLiteStore

        return SQLiteStore(address.place)
    from .dynamodb.store import DynamoDBStore

    return DynamoDBStore(
        address.place,
        tenant=address.options.get("tenant"),
        layout=address.options.get("layout", "snapshot-last"),  # type: ignore[arg-type]  # checked by the store
        **address.connection,  # type: ignore[arg-type]
    )


def parse_url(url: str, *, options: Collection[str] = ()) -> Address:
    """Return the parts of a URL. `options` are those of a table besides region, endpoint and plain_http.

    Raises TypeError or ValueError. The message names the wrong part, and quotes no password.
    """
    import re
    from urllib.parse import parse_qsl, unquote, urlsplit  # here, because few programs need it

    if not isinstance(url, str):
        raise TypeError(f"the URL is of type {type(url).__name__}; write a text such as 'sqlite:///file.db'")
    shown = repr(re.sub(_USER, r"\1…\2", url))
    if not url.isprintable():
        raise ValueError(f"{shown}: a URL must not contain control characters")
    parts = urlsplit(url)
    pairs = parse_qsl(parts.query, keep_blank_values=True, strict_parsing=bool(parts.query))
    given = dict(pairs)
    if len(given) < len(pairs):
        raise ValueError(f"{shown}: an option is given twice: {', '.join(name for name, _ in pairs)}")
    if parts.fragment:
        raise ValueError(f"{shown}: a URL must not have a #fragment")
    known: Collection[str] = ()
    match parts.scheme:
        case "memory":
            place, malformed = "", bool(parts.netloc or parts.path)
        case "sqlite":
            place = unquote(parts.path[1:], errors="strict")
            malformed = bool(parts.netloc) or len(parts.path) < 2 or parts.path[0] != "/" or "%00" in parts.path
        case "dynamodb":
            place, known = unquote(parts.netloc), ("region", "endpoint", "plain_http", *options)
            malformed = not parts.netloc or parts.path not in ("", "/")
            malformed |= given.get("plain_http", "false") not in ("true", "false")
        case _:
            raise ValueError(f"{shown}: a URL must start with memory://, sqlite:/// or dynamodb://")
    if unknown := [name for name in given if name not in known]:
        raise ValueError(f"{shown}: unknown option {', '.join(unknown)}")
    if malformed:
        raise ValueError(f"{shown}: write memory://, sqlite:///file.db or dynamodb://table?region=eu-west-1")
    return Address(parts.scheme, place, given)
