"""Create a store from a URL."""

from __future__ import annotations

from ..store import Store


def open_store(url: str) -> Store:
    """Return the store of a URL, not yet open. Use it as `async with open_store(url) as store:`.

    - `memory://`
    - `sqlite:///relative.db` or `sqlite:////absolute.db`: the path starts after the third slash.
    - `dynamodb://table?region=…&endpoint=…&tenant=…&layout=…&plain_http=true`: all options may be left out.

    Raises ValueError for any other URL. The message names the wrong part.
    """
    from urllib.parse import parse_qsl, unquote, urlsplit  # here, because few programs need it

    if not url.isprintable():
        raise ValueError(f"{url!r}: a store URL must not contain control characters")
    parts = urlsplit(url)
    pairs = parse_qsl(parts.query, keep_blank_values=True, strict_parsing=bool(parts.query))
    options = dict(pairs)
    if len(options) < len(pairs):
        raise ValueError(f"{url!r}: an option is given twice: {', '.join(name for name, _ in pairs)}")
    if parts.fragment:
        raise ValueError(f"{url!r}: a store URL must not have a #fragment")
    if parts.scheme == "memory":
        _check(url, options, bool(parts.netloc or parts.path))
        from .memory import MemoryStore

        return MemoryStore()
    if parts.scheme == "sqlite":
        _check(url, options, bool(parts.netloc) or len(parts.path) < 2 or parts.path[0] != "/" or "%00" in parts.path)
        from .sqlite.store import SQLiteStore

        return SQLiteStore(unquote(parts.path[1:], errors="strict"))
    if parts.scheme == "dynamodb":
        region, endpoint = options.pop("region", None), options.pop("endpoint", None)
        tenant, layout = options.pop("tenant", None), options.pop("layout", "snapshot-last")
        plain_http = options.pop("plain_http", "false")
        malformed = not parts.netloc or parts.path not in ("", "/") or plain_http not in ("true", "false")
        _check(url, options, malformed)
        from .dynamodb.store import DynamoDBStore

        return DynamoDBStore(
            unquote(parts.netloc),
            region_name=region,
            endpoint_url=endpoint,
            tenant=tenant,
            plain_http=plain_http == "true",
            layout=layout,  # type: ignore[arg-type]  # checked by the store
        )
    raise ValueError(f"{url!r}: a store URL must start with memory://, sqlite:/// or dynamodb://")


def _check(url: str, unknown: dict[str, str], malformed: bool) -> None:
    if unknown:
        raise ValueError(f"{url!r}: unknown option {', '.join(unknown)}")
    if malformed:
        raise ValueError(f"{url!r}: write memory://, sqlite:///file.db or dynamodb://table?region=eu-west-1")
