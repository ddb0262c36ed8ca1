"""Correlation and causation ids: a context variable carries them, and each commit is stamped with them."""

from __future__ import annotations

import re
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from contextvars import ContextVar
from typing import Any

import msgspec

from .store import Commit, EventId

TRACEPARENT = re.compile(r"(?!ff)[0-9a-f]{2}-(?!0{32})([0-9a-f]{32})-(?!0{16})[0-9a-f]{16}-[0-9a-f]{2}")
"""What the traceparent of W3C Trace Context looks like, in version 0; its first group is the trace id."""


class TraceContext(msgspec.Struct, frozen=True):
    """The ids and the metadata that commits made in this context are stamped with."""

    correlation_id: str | None = None
    causation_ids: tuple[str, ...] = ()
    metadata: Mapping[str, str] = {}

    def merged(self, metadata: Mapping[str, str] | None) -> TraceContext:
        """Return this trace with more metadata.

        Raises:
            TypeError: a key or a value is not a string.
            ValueError: a key is empty, or a string has a lone surrogate.
        """
        if not metadata:
            return self
        for key, value in metadata.items():
            check_text("a metadata key", key)
            if not key:
                raise ValueError("a metadata key is empty; DynamoDB does not accept empty keys")
            check_text("metadata", value)
        return msgspec.structs.replace(self, metadata={**self.metadata, **metadata})


_current: ContextVar[TraceContext | Callable[[], TraceContext]] = ContextVar("eventsrc_trace", default=TraceContext())  # noqa: B039  # frozen

enter: Callable[[Any], Any] = _current.set  # Any, because mypy takes no tuple with a __call__ for a Callable
leave: Callable[[Any], None] = _current.reset
"""Begin and end a part of the program with another trace, or a function that returns it. It is called when the trace is
needed, so that handlers that commit nothing do not pay for it."""


_stamps: dict[str, Callable[[], Mapping[str, str]]] = {}


def stamp_all(name: str, read: Callable[[], Mapping[str, str]]) -> None:
    """Add what `read` returns to the metadata of each commit of this process, in place of what `name` did before.

    A trace may override it.
    """
    _stamps[name] = read


def name_service(name: str) -> None:
    """Stamp each commit of this process with the name of its service, as `service` in the metadata.

    Raises TypeError or ValueError if it is not a text.
    """
    check_text("the name of a service", name)
    stamp_all("service", lambda: {"service": name})


def current_trace() -> TraceContext:
    """Return the trace of this task or thread: of `trace(...)` or of the handler that runs, or an empty one."""
    current = _current.get()
    found = current if isinstance(current, TraceContext) else current()
    if _stamps:
        metadata = {name: value for read in _stamps.values() for name, value in read().items()}
        found = msgspec.structs.replace(found, metadata={**metadata, **found.metadata})
    return found


@contextmanager
def trace(
    correlation_id: str | None = None,
    causation_id: EventId | str | Sequence[EventId | str] | None = None,
    metadata: Mapping[str, str] | None = None,
) -> Iterator[TraceContext]:
    """Stamp every commit made in this block. Anything left out is inherited from the trace around it.

    - `causation_id`: the id of the event or events that caused this, such as `account-a-1@7.0`; the cause can be read
      by it without an index.
    - `metadata`: merged over the metadata of the trace around it; keys and values are strings.

    Raises:
        TypeError: an id, a key or a value is not a string.
        ValueError: a key is empty, or a string has a lone surrogate.
    """
    outer = current_trace()
    if causation_id is None:
        causes = outer.causation_ids
    elif isinstance(causation_id, Sequence) and not isinstance(causation_id, str):
        causes = tuple(_to_text(cause) for cause in causation_id)
    else:
        causes = (_to_text(causation_id),)
    correlation_id = outer.correlation_id if correlation_id is None else correlation_id
    for name, text in (("correlation_id", correlation_id), *(("causation_id", cause) for cause in causes)):
        if text is not None:
            check_text(name, text)
    inner = TraceContext(correlation_id, causes, outer.metadata).merged(metadata)
    token = _current.set(inner)
    try:
        yield inner
    finally:
        _current.reset(token)


def trace_id_of(commit: Commit) -> str:
    """Return the correlation id. A commit without one starts a trace, whose id is its own identity: `account-a-1@7`."""
    return commit.correlation_id or f"{commit.stream}@{commit.version}"


def _to_text(cause: EventId | str) -> str:
    return str(cause) if isinstance(cause, EventId) else cause


def check_text(what: str, value: object) -> None:
    """Check that `value` is a string that every store keeps unchanged; `what` names it in messages.

    Raises:
        TypeError: it is not a string.
        ValueError: it has a lone surrogate.
    """
    if not isinstance(value, str):
        raise TypeError(f"{what} is {type(value).__name__}, not a string")
    if not value.isascii() and any("\ud800" <= character <= "\udfff" for character in value):
        raise ValueError(f"{what} holds a lone surrogate, which is not valid Unicode")
