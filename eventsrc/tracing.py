"""Who caused it: correlation and causation, carried by a context variable and stamped on each commit."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from contextvars import ContextVar

import msgspec

from .store import EventId


class Trace(msgspec.Struct, frozen=True):
    """What the commits made in this context are stamped with."""

    correlation_id: str | None = None
    causation_ids: tuple[str, ...] = ()
    metadata: Mapping[str, str] = {}

    def merged(self, metadata: Mapping[str, str] | None) -> Trace:
        """This trace with more metadata. Raises TypeError or ValueError for what is no text."""
        if not metadata:
            return self
        for key, value in metadata.items():
            check_text("a metadata key", key)
            if not key:
                raise ValueError("a metadata key is empty; DynamoDB takes none that is")
            check_text("metadata", value)
        return msgspec.structs.replace(self, metadata={**self.metadata, **metadata})


_current: ContextVar[Trace] = ContextVar("eventsrc_trace", default=Trace())  # noqa: B039  # frozen


def current_trace() -> Trace:
    """The trace of this task or thread; empty outside `trace(...)`."""
    return _current.get()


@contextmanager
def trace(
    correlation_id: str | None = None,
    causation_id: EventId | str | Sequence[EventId | str] | None = None,
    metadata: Mapping[str, str] | None = None,
) -> Iterator[Trace]:
    """Stamp every commit made inside with these; what is left out is inherited from the trace around it.

    `causation_id` is the identity of the event (or events) that led here, as `account-a-1@7.0`, so the cause can
    be read without any index. `metadata` is merged over the outer one; keys and values are strings.
    """
    outer = _current.get()
    if causation_id is None:
        causes = outer.causation_ids
    elif isinstance(causation_id, Sequence) and not isinstance(causation_id, str):
        causes = tuple(_place(cause) for cause in causation_id)
    else:
        causes = (_place(causation_id),)
    correlation_id = outer.correlation_id if correlation_id is None else correlation_id
    for name, text in (("correlation_id", correlation_id), *(("causation_id", cause) for cause in causes)):
        if text is not None:
            check_text(name, text)
    inner = Trace(correlation_id, causes, outer.metadata).merged(metadata)
    token = _current.set(inner)
    try:
        yield inner
    finally:
        _current.reset(token)


def _place(cause: EventId | str) -> str:
    return str(cause) if isinstance(cause, EventId) else cause


def check_text(what: str, value: object) -> None:
    """Raise TypeError or ValueError unless `value` is a string that every store keeps as it is."""
    if not isinstance(value, str):
        raise TypeError(f"{what} is {type(value).__name__}, not a string")
    if not value.isascii() and any("\ud800" <= character <= "\udfff" for character in value):
        raise ValueError(f"{what} holds a lone surrogate, which is not valid Unicode")
