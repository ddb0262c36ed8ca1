"""Every error the library raises. Each carries its facts as attributes and says what to do.

EventsrcError
├── DeclarationError            an aggregate, event or upcaster is declared wrongly; mend the code
├── InvalidStreamId             the id cannot name a stream; choose another
├── InvalidEvent                the event could not be read back; nothing was written
├── UnhandledEvent              the aggregate has no handler for this event
├── AggregateNotFound           the stream has no such commit
├── ConflictError               another commit took the version; load again and decide again
├── IdempotencyError            a command id came back with other content
├── CommitTooLarge              the commit does not fit into one item; nothing was sent
├── Fenced                      another worker has taken over; this one stops
├── StreamParked                a handler failed: this stream waits until it is retried or skipped
├── NotActive                   another version of the processor is the active one; rebuild, then switch
├── StoredDataError             what is stored cannot be used
│   ├── CorruptPayload          bytes damaged or not ours
│   ├── PayloadTooLarge         would expand beyond the cap (also refused before a write)
│   ├── UnknownEventType        the code has no class for a stored tag
│   ├── SchemaMismatch          a stored event does not fit its class
│   └── StreamCorrupt           a version is missing
└── StoreError                  the store could not do it
    ├── CommitOutcomeUnknown    the commit may or may not be stored; save the same object again
    ├── Throttled               not done: the service asked to slow down until the deadline
    ├── StoreUnavailable        not done: no answer before the deadline
    ├── StoreRejected           not done, and trying again will not help
    ├── FeedTrimmed             what a feed should go on with is gone; begin anew, from the table
    └── StoreClosed             the store is not open (here)

No message, repr or traceback shows an event's content: payloads do not belong in logs.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from .store import Commit


class EventsrcError(Exception):
    """The root: catch this for everything the library raises on purpose."""


class DeclarationError(EventsrcError, TypeError):
    """`culprit` (a class, method or function) is declared in a way that cannot work; `reason` says why."""

    def __init__(self, culprit: str, reason: str) -> None:
        super().__init__(culprit, reason)
        self.culprit, self.reason = culprit, reason

    def __str__(self) -> str:
        return f"{self.culprit}: {self.reason}"


class InvalidStreamId(EventsrcError, ValueError):
    """`id` cannot name a stream. Nothing was read or written."""

    def __init__(self, id: object, reason: str) -> None:
        super().__init__(id, reason)
        self.id, self.reason = id, reason

    def __str__(self) -> str:
        shown = ascii(self.id)
        return f"{shown if len(shown) <= 80 else shown[:77] + '...'} is no stream id: {self.reason}"


class InvalidEvent(EventsrcError, ValueError):
    """An event would poison its stream: what was encoded could not be read back. Nothing was written.

    `event` is the tag, `reason` names the field.
    """

    def __init__(self, event: str, reason: str) -> None:
        super().__init__(event, reason)
        self.event, self.reason = event, reason

    def __str__(self) -> str:
        return f"event {self.event!r} cannot be stored: {self.reason}"


class UnhandledEvent(EventsrcError, TypeError):
    """`aggregate` has no `apply_*` handler annotated with `event`. Add one, also if it does nothing."""

    def __init__(self, aggregate: str, event: str) -> None:
        super().__init__(aggregate, event)
        self.aggregate, self.event = aggregate, event

    def __str__(self) -> str:
        return f"{self.aggregate} has no apply_* handler annotated with {self.event}; add one"


class AggregateNotFound(EventsrcError, LookupError):
    """The stream has no commit, or not the one asked for (`version`, or anything at that time)."""

    def __init__(self, stream: str, detail: str = "it has no commit") -> None:
        super().__init__(stream, detail)
        self.stream, self.detail = stream, detail

    def __str__(self) -> str:
        return f"{self.stream} not found: {self.detail}; a new aggregate is made by its class, and saved"


class ConflictError(EventsrcError):
    """Another commit stands where this one should: nothing of this one was written.

    `actual` is a version known to be taken (at least `expected + 1`; lower only when the expected version lies
    beyond the stream's end). `winner` is the commit that stands there, when the store returned it.
    Load again and decide again, or use `Repository.execute`, which does.
    """

    def __init__(self, stream: str, expected: int, actual: int, winner: Commit | None = None) -> None:
        super().__init__(stream, expected, actual, winner)
        self.stream, self.expected, self.actual, self.winner = stream, expected, actual, winner

    def __str__(self) -> str:
        return (
            f"{self.stream} is at version {self.actual} or later, not at the expected {self.expected}; "
            "load it again and decide again"
        )


class IdempotencyError(EventsrcError):
    """The command id was applied before with other content. Nothing was written: use a fresh command id."""

    def __init__(self, stream: str, command_id: str, version: int) -> None:
        super().__init__(stream, command_id, version)
        self.stream, self.command_id, self.version = stream, command_id, version

    def __str__(self) -> str:
        return (
            f"command id {self.command_id!r} was applied to {self.stream} at version {self.version} with other "
            "content; a new command needs an id of its own"
        )


class CommitTooLarge(EventsrcError, ValueError):
    """The commit needs `size` bytes, the store holds `limit` per commit. Nothing was sent; save fewer events."""

    def __init__(self, stream: str, size: int, limit: int) -> None:
        super().__init__(stream, size, limit)
        self.stream, self.size, self.limit = stream, size, limit

    def __str__(self) -> str:
        return (
            f"a commit to {self.stream} needs {self.size:,} bytes, the limit is {self.limit:,}; record fewer "
            "events per save, or keep large content elsewhere and record a reference"
        )


class Fenced(EventsrcError):
    """Another worker has taken over what this one handled, a `slot` of a `processor`. Nothing was written: stop."""

    def __init__(self, processor: str, slot: int) -> None:
        super().__init__(processor, slot)
        self.processor, self.slot = processor, slot

    def __str__(self) -> str:
        return f"{self.processor}: another worker, or another version, has taken over slot {self.slot}"


class StreamParked(EventsrcError):
    """A handler could not take `version` of `stream`, so that the processor holds that stream back."""

    def __init__(self, processor: str, stream: str, version: int) -> None:
        super().__init__(processor, stream, version)
        self.processor, self.stream, self.version = processor, stream, version

    def __str__(self) -> str:
        where = f"{self.processor} has parked {self.stream} at version {self.version}"
        return f"{where}; mend the handler and retry, or skip"


class NotActive(EventsrcError):
    """Readers use version `active` of the processor `tag`, not `version`. A new one is rebuilt, which switches to it;
    one that was replaced does not run again: give its handlers a new version.
    """

    def __init__(self, tag: str, version: int, active: int) -> None:
        super().__init__(tag, version, active)
        self.tag, self.version, self.active = tag, version, active

    def __str__(self) -> str:
        return (
            f"{self.tag}@{self.version} is not in use, {self.tag}@{self.active} is; deploy that one, or `rebuild` this "
            "one if it is new; one that was replaced needs a new version to come back"
        )


class StoredDataError(EventsrcError):
    """What is stored for `stream` at `version` cannot be used. `Store.read` still returns the raw commit.

    Where it cannot be told which stream that is, `stream` is empty.
    """

    def __init__(self, stream: str, version: int, reason: str) -> None:
        super().__init__(stream, version, reason)
        self.stream, self.version, self.reason = stream, version, reason

    def __str__(self) -> str:
        return f"{self.stream}@{self.version}: {self.reason}" if self.stream else self.reason


class CorruptPayload(StoredDataError):
    """The stored bytes are damaged, or were not written by this library. Restore them from a backup."""


class PayloadTooLarge(StoredDataError):
    """The payload expands to `size` bytes, beyond `limit`; refused before anything was expanded."""

    def __init__(self, stream: str, version: int, size: int, limit: int) -> None:
        Exception.__init__(self, stream, version, size, limit)
        self.stream, self.version, self.size, self.limit = stream, version, size, limit
        self.reason = f"the payload expands to {size:,} bytes, the limit is {limit:,}"


class UnknownEventType(StoredDataError):
    """No event class of the aggregate has the stored `tag`. Keep old classes, or add an upcaster from them."""

    def __init__(self, stream: str, version: int, tag: str) -> None:
        Exception.__init__(self, stream, version, tag)
        self.stream, self.version, self.tag = stream, version, tag
        self.reason = f"no handled event class has the tag {tag!r}; keep old classes and give them an upcaster"


class SchemaMismatch(StoredDataError):
    """A stored event lacks a field of its class `event`, or holds another type there; `reason` names the field."""

    def __init__(self, stream: str, version: int, event: str, detail: str) -> None:
        Exception.__init__(self, stream, version, event, detail)
        self.stream, self.version, self.event, self.detail = stream, version, event, detail
        self.reason = f"event {event!r} does not fit its class: {detail}; keep the old class and add an upcaster"


class StreamCorrupt(StoredDataError):
    """`version` is missing though later ones exist. The stream was read twice; restore it from a backup."""

    def __init__(self, stream: str, version: int) -> None:
        Exception.__init__(self, stream, version)
        self.stream, self.version = stream, version
        self.reason = "this version is missing though later ones exist"


class StoreError(EventsrcError):
    """The store could not do what it was asked; the subclass says whether anything may have been written."""


class CommitOutcomeUnknown(StoreError):
    """No definite answer came before the deadline: the commit may be stored, or may still be.

    Save the *same object* again: it sends the same commit under the same id and ends with an exact outcome.
    With a command id, issuing the same command again on a freshly loaded aggregate is exact as well.
    """

    def __init__(self, stream: str, version: int, commit_id: str, reason: str = "") -> None:
        super().__init__(stream, version, commit_id, reason)
        self.stream, self.version, self.commit_id, self.reason = stream, version, commit_id, reason

    def __str__(self) -> str:
        last = f" ({self.reason} in the end)" if self.reason else ""
        return (
            f"commit {self.commit_id} to {self.stream}@{self.version}: no definite answer{last}; save the same object "
            "again to learn the outcome"
        )


class Throttled(StoreError):
    """Definitely not done: the service, or the store's own queue, asked to slow down until the deadline."""


class StoreUnavailable(StoreError):
    """Definitely not done: the store gave no usable answer before the deadline. Try again later."""


class StoreRejected(StoreError):
    """Definitely not done, and the same call will fail again. `code` is the service's, the text says what to do."""

    def __init__(self, code: str, advice: str) -> None:
        super().__init__(code, advice)
        self.code, self.advice = code, advice

    def __str__(self) -> str:
        return f"{self.code}: {self.advice}"


class FeedTrimmed(StoreError):
    """A feed cannot go on where it was without missing something, for a `reason`; it has told nothing beyond that.

    A table's stream keeps changes for a day; or the store was restored, or is another one. Begin anew with an empty
    checkpoint (`Processor.resume_from`), which reads all there is, or from an export. What processors have handled they
    drop; `verify` tells which streams they have handled further than the store goes. For other data, drop the read
    model and begin with nothing (`Processor.forget`).
    """

    def __init__(self, reason: str) -> None:
        super().__init__(reason)
        self.reason = reason

    def __str__(self) -> str:
        return f"{self.reason}; begin anew, with an empty checkpoint or an export: what was handled is dropped"


class StoreClosed(StoreError):
    """The store is not open, or not in this event loop. Open it with `async with store:`."""
