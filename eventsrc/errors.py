"""All errors that the library raises. Each has its facts as attributes and says what to do.

EventsrcError
├── DeclarationError            an aggregate, event or upcaster is declared wrongly; fix the code
├── InvalidStreamId             the id cannot name a stream; choose another id
├── InvalidEvent                the event cannot be read back once encoded; nothing was written
├── UnhandledEvent              the aggregate has no handler for this event; add one
├── AggregateNotFound           the stream has no such commit
├── TraceNotFound               no store has a commit of this trace; give another id, or more stores
├── DumpDamaged                 the file is not a whole dump; export it again, or copy it again
├── ConflictError               another commit has this version; load again and decide again
├── IdempotencyError            the command id was already applied with other content; use a new command id
├── CommandRefused              the command raised, which is final; give a new command a new id
├── AlreadyReserved             another owner has the value; choose another one
├── CommitTooLarge              the commit does not fit into one item; nothing was sent
│   └── TransactionTooLarge     a transaction has too many streams or bytes; nothing was sent
├── WrongStore                  the object belongs to another store or tenant; load it through this repository
├── Fenced                      another worker has taken over; this one stops
├── StreamParked                a handler failed; the stream waits until it is retried or skipped
├── StreamsParked               a run or a rebuild has handled everything except these streams
├── StoreChanged                the checkpoints belong to another store, tenant or history
├── SwitchPending               a rebuild is switching to another version of the processor; try again
├── NotActive                   readers use another version of the processor; rebuild this one to switch to it
├── WrongSource                 an event is of another source than the inbox; give it to an inbox of its own
├── SourceError                 the events of another service cannot be received
│   ├── SourceUnavailable       no usable answer for as long as the caller waits; start again later
│   ├── SourceRejected          the service refuses the request, and will do so again
│   ├── SourceTokenGone         the service does not have the history that the token is of
│   ├── NotAnEventsApi          an answer is not that of an events API
│   ├── SourceOutOfOrder        an event came again, or before one that it follows
│   └── SourceGap               the service left out events
├── MessageTooLarge             an event is larger than a message of the sink; it was not sent
├── MessageRefused              a sink refuses an event, and will do so again
├── StoredDataError             stored data cannot be used
│   ├── CorruptPayload          the bytes are damaged, or were not written by this library
│   ├── PayloadTooLarge         the payload expands beyond the limit; raised on a save too, before the write
│   ├── UnknownEventType        the code has no class for a stored tag
│   ├── SchemaMismatch          a stored event does not fit its class
│   ├── UpcasterFailed          an upcaster raised, or returned something else than its annotation says
│   └── StreamCorrupt           a version is missing
└── StoreError                  the store could not do what was asked
    ├── CommitOutcomeUnknown    the commit may or may not be stored; `await repository.settle(error)`
    │   └── TransactionOutcomeUnknown  all commits of it may be stored, or none; `await tx.settle()`
    ├── Throttled               not done: the service asked to slow down until the deadline
    ├── StoreUnavailable        not done: no usable answer before the deadline
    ├── StoreRejected           not done, and the same call will fail again
    │   └── TransactionsRefused     the table, or the server, has no transactions
    ├── FeedTrimmed             the feed cannot resume from its checkpoint; start again as the message says
    └── StoreClosed             the store is not open, or not in this event loop or process

No message, repr or traceback shows the content of an event, because payloads do not belong in logs.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from .store import Commit


class EventsrcError(Exception):
    """The base class of all errors that the library raises on purpose."""


def kind_of(value: object) -> str:
    """Return what a value is, without its content, for a message: `the class Deposited`, `an object of type str`."""
    if isinstance(value, type):
        return f"the class {value.__qualname__}"
    return f"an object of type {type(value).__qualname__}"


class DeclarationError(EventsrcError, TypeError):
    """The declaration of `culprit`, a class, method or function, cannot work; `reason` says why."""

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
        return f"{shown if len(shown) <= 80 else shown[:77] + '...'} is not a stream id: {self.reason}"


class InvalidEvent(EventsrcError, ValueError):
    """An event cannot be read back once it is encoded, so that its stream could not be loaded. Nothing was written.

    `event` is the tag. `reason` names the field.
    """

    def __init__(self, event: str, reason: str) -> None:
        super().__init__(event, reason)
        self.event, self.reason = event, reason

    def __str__(self) -> str:
        return f"event {self.event!r} cannot be stored: {self.reason}"


class UnhandledEvent(EventsrcError, TypeError):
    """`aggregate` has no `apply_*` handler annotated with `event`. Add one, even if it does nothing.

    `reason` is set if another remedy is right: `event` is not an event, or it has an upcaster.
    """

    def __init__(self, aggregate: str, event: str, reason: str = "") -> None:
        super().__init__(aggregate, event, reason)
        self.aggregate, self.event, self.reason = aggregate, event, reason

    def __str__(self) -> str:
        if self.reason:
            return f"{self.aggregate}: {self.reason}"
        return f"{self.aggregate} has no apply_* handler annotated with {self.event}; add one, even if it does nothing"


class AggregateNotFound(EventsrcError, LookupError):
    """The stream has no commit, or no commit at the version or time that was asked for."""

    def __init__(self, stream: str, detail: str = "") -> None:
        super().__init__(stream, detail)
        self.stream = stream
        self.detail = detail or "it has no commit; to create an aggregate, call its class and save the object"

    def __str__(self) -> str:
        return f"{self.stream} not found: {self.detail}"


class TraceNotFound(EventsrcError, LookupError):
    """No store has a commit of a trace with this id. `looked_up` says what was searched, and `failures` what failed."""

    def __init__(self, id: str, looked_up: Sequence[str], failures: Sequence[str] = ()) -> None:
        super().__init__(id, looked_up, failures)
        self.id, self.looked_up, self.failures = id, looked_up, failures

    def __str__(self) -> str:
        failed = f"; {'; '.join(self.failures)}" if self.failures else ""
        return (
            f"nothing has the id {self.id!r}; looked up: {', '.join(self.looked_up)}{failed}; give a correlation id, "
            "an event id such as order-7@3.0, or a commit such as order-7@3"
        )


class DumpDamaged(EventsrcError, ValueError):
    """A file is not a dump, or not a whole one: `line` is the number of the line, from 1, and `reason` says why."""

    def __init__(self, line: int, reason: str) -> None:
        super().__init__(line, reason)
        self.line, self.reason = line, reason

    def __str__(self) -> str:
        return f"line {self.line:,} of the dump: {self.reason}; copy the file again, or export again"


class ConflictError(EventsrcError):
    """Another commit has the version of this one. Nothing of this commit was written.

    - `expected` is the version that the commit was to follow.
    - `actual` is a version that the stream is known to have: at least `expected + 1`, or lower if `expected` is beyond
      the end of the stream.
    - `winner` is the commit that has the version, if the store returned it.

    Load again and decide again, or use `Repository.execute`, which does both.
    """

    def __init__(self, stream: str, expected: int, actual: int, winner: Commit | None = None) -> None:
        super().__init__(stream, expected, actual, winner)
        self.stream, self.expected, self.actual, self.winner = stream, expected, actual, winner

    def __str__(self) -> str:
        return (
            f"{self.stream} is at version {self.actual} or later, not at the expected version {self.expected}; "
            "load it again and decide again"
        )


class IdempotencyError(EventsrcError):
    """The command id was already applied with other content. Nothing was written. Use a new command id."""

    def __init__(self, stream: str, command_id: str, version: int) -> None:
        super().__init__(stream, command_id, version)
        self.stream, self.command_id, self.version = stream, command_id, version

    def __str__(self) -> str:
        return (
            f"command id {self.command_id!r} was already applied to {self.stream} at version {self.version} with other "
            "content; use a new command id for a new command"
        )


class CommandRefused(EventsrcError):
    """A command whose outcome is final has refused: it raised `error`, the name of a type, with the text `reason`.

    The refusal is the commit `version` of the stream, without events. It is 0 if the aggregate does not exist.
    """

    def __init__(self, stream: str, command_id: str, version: int, error: str, reason: str) -> None:
        super().__init__(stream, command_id, version, error, reason)
        self.stream, self.command_id, self.version = stream, command_id, version
        self.error, self.reason = error, reason

    def __str__(self) -> str:
        return (
            f"the command {self.command_id!r} was refused by {self.stream} with {self.error}, which is final; give "
            "a new command a new id"
        )


class CommitTooLarge(EventsrcError, ValueError):
    """The commit needs `size` bytes, and the store allows `limit` per commit. Nothing was sent. Save fewer events."""

    def __init__(self, stream: str, size: int, limit: int) -> None:
        super().__init__(stream, size, limit)
        self.stream, self.size, self.limit = stream, size, limit

    def __str__(self) -> str:
        return (
            f"a commit to {self.stream} needs {self.size:,} bytes, the limit is {self.limit:,}; record fewer "
            "events per save, or store large content elsewhere and record a reference"
        )


class TransactionTooLarge(CommitTooLarge):
    """A transaction has `size` of `unit` ("streams" or "bytes"), and the limit is `limit`. Nothing was sent.

    Streams that were only read count too, as do the actions of an inline projection. `stream` is the first one.
    """

    def __init__(self, stream: str, size: int, limit: int, unit: str) -> None:
        super().__init__(stream, size, limit)
        self.args = (stream, size, limit, unit)
        self.unit = unit

    def __str__(self) -> str:
        return (
            f"a transaction on {self.stream} and other streams has {self.size:,} {self.unit}, the limit is "
            f"{self.limit:,}; split it into several, or use commands that follow one another"
        )


class AlreadyReserved(EventsrcError):
    """Another owner, `owner`, has the value in the reservations `name`. The value itself is not kept in the error.

    `stream` is the stream of the reservation. Choose another value, or release this one first.
    """

    def __init__(self, name: str, stream: str, owner: str) -> None:
        super().__init__(name, stream, owner)
        self.name, self.stream, self.owner = name, stream, owner

    def __str__(self) -> str:
        return f"the value is reserved in {self.name!r} by {self.owner!r} ({self.stream}); choose another value"


class WrongStore(EventsrcError, ValueError):
    """The object was loaded from, or saved to, another store or tenant. Nothing was written.

    The store does not have the object's last commit, `version` of `stream`. After a restore, a store that the object
    came from may not have it either. Load the aggregate again through this repository.

    If it was `sent`, the commit with this version was sent to another store, and its outcome is not known yet. Settle
    it through a repository of that store, while it is open.
    """

    def __init__(self, stream: str, version: int, sent: bool = False) -> None:
        super().__init__(stream, version, sent)
        self.stream, self.version, self.sent = stream, version, sent

    def __str__(self) -> str:
        if self.sent:
            return (
                f"the commit to {self.stream}@{self.version}, whose outcome is not known, was sent to another store, "
                "or to one that is closed; settle it, or save the object again, through a repository of that store"
            )
        return (
            f"this store does not have version {self.version} of {self.stream} from which the object continues; it was "
            "loaded from, or saved to, another store or tenant: load it again through this repository"
        )


class Fenced(EventsrcError):
    """Another worker has taken over `slot` of `processor`. This try wrote nothing. Stop this worker."""

    def __init__(self, processor: str, slot: int) -> None:
        super().__init__(processor, slot)
        self.processor, self.slot = processor, slot

    def __str__(self) -> str:
        return (
            f"{self.processor}: another worker, or another version, has taken over slot {self.slot}; this try "
            "wrote nothing; to run several workers at once, use Leases"
        )


class StreamParked(EventsrcError):
    """A handler failed on `version` of `stream`, so the processor does not handle later commits of that stream."""

    def __init__(self, processor: str, stream: str, version: int) -> None:
        super().__init__(processor, stream, version)
        self.processor, self.stream, self.version = processor, stream, version

    def __str__(self) -> str:
        where = f"{self.processor} has parked {self.stream} at version {self.version}"
        return f"{where}; fix the handler and call `retry`, or call `skip`"


class StreamsParked(EventsrcError):
    """A run, or a rebuild, has handled everything except `streams`, which are parked."""

    def __init__(self, processor: str, streams: Sequence[str]) -> None:
        super().__init__(processor, streams)
        self.processor, self.streams = processor, tuple(streams)

    def __str__(self) -> str:
        named = ", ".join(self.streams[:5]) + (", ..." if len(self.streams) > 5 else "")
        return (
            f"{self.processor} has handled everything except {len(self.streams)} parked streams ({named}); "
            "`await processor.parked()` shows the errors; then call `retry` or `skip`"
        )


class StoreChanged(EventsrcError):
    """The checkpoints of `processor` belong to another store, another tenant, or to a history that was restored.

    Nothing was handled or skipped. `reason` says how that was noticed.

    - Another store or tenant: give the processor the store that it began with, or other checkpoints or another tag.
    - A restored store: the read model holds effects of commits that are lost. Call `Processor.forget` and run again,
      or rebuild under a new version.
    """

    def __init__(self, processor: str, reason: str) -> None:
        super().__init__(processor, reason)
        self.processor, self.reason = processor, reason

    def __str__(self) -> str:
        return (
            f"{self.processor}: {self.reason}; if the store was restored, call `await processor.forget()` and run "
            "again; if it is another store or tenant, give it other checkpoints or the processor another tag"
        )


class SwitchPending(EventsrcError):
    """A rebuild is switching from `version` of the processor `tag` to another one. Nothing was done. Try again.

    A processor that runs waits for the end of the switch. If the rebuild is killed, it continues after ten seconds.
    """

    def __init__(self, tag: str, version: int) -> None:
        super().__init__(tag, version)
        self.tag, self.version = tag, version

    def __str__(self) -> str:
        return f"a rebuild is replacing {self.tag}@{self.version}; try again when it has ended"


class NotActive(EventsrcError):
    """Readers use version `active` of the processor `tag`, not `version`.

    - If `version` is new, `rebuild` it, which switches to it.
    - If it was replaced, it does not run again. Give its handlers a new version.
    """

    def __init__(self, tag: str, version: int, active: int) -> None:
        super().__init__(tag, version, active)
        self.tag, self.version, self.active = tag, version, active

    def __str__(self) -> str:
        return (
            f"{self.tag}@{self.version} is not active, {self.tag}@{self.active} is; deploy the active version, or call "
            "`rebuild` if this one is new; a version that was replaced cannot run again, give its handlers a new one"
        )


class WrongSource(EventsrcError, ValueError):
    """An event is of the source `given`, and the inbox takes those of `expected`. Nothing was stored."""

    def __init__(self, expected: str, given: str) -> None:
        super().__init__(expected, given)
        self.expected, self.given = expected, given

    def __str__(self) -> str:
        shown = self.given[:100]
        return f"an event of {shown!r} was given to the inbox of {self.expected!r}; make an inbox for each source"


class SourceError(EventsrcError):
    """The events of another service cannot be received. Nothing of what was received before is lost.

    `url` is the address that was asked, without its user, password and query.
    """

    def __init__(self, url: str, reason: str) -> None:
        super().__init__(url, reason)
        self.url, self.reason = url, reason

    def __str__(self) -> str:
        return f"{self.url}: {self.reason}"


class SourceUnavailable(SourceError):
    """The service gave no usable answer for as long as the caller waits. Start again later, with the last token.

    `retry_after` is the number of seconds for which the service wants to be left alone; 0 if it did not say.
    """

    def __init__(self, url: str, reason: str, retry_after: float = 0.0) -> None:
        super().__init__(url, reason)
        self.retry_after = retry_after


class SourceRejected(SourceError):
    """The service answered with `status`, and will do so again. `detail` is what it says, or "".

    `status` is 0 if its certificate is not accepted.
    """

    def __init__(self, url: str, status: int, detail: str) -> None:
        Exception.__init__(self, url, status, detail)
        self.url, self.status, self.detail = url, status, detail
        answer = f"answered {status}" if status else "is not trusted"
        self.reason = f"{answer}{': ' if detail else ''}{detail}; check the address, the headers and the certificate"


class SourceTokenGone(SourceError):
    """The token is of another store, or of a history that was lost, as `detail` says. Nothing was received.

    Start again without a token. Events that were received before may then come again.
    """

    def __init__(self, url: str, detail: str) -> None:
        Exception.__init__(self, url, detail)
        self.url, self.detail = url, detail
        self.reason = (
            f"the token is not of the history that is served now{': ' if detail else ''}{detail}; start again without "
            "a token, and expect events that were received before"
        )


class NotAnEventsApi(SourceError):
    """An answer is not that of an events API, as `reason` says. Check the address, and what answers there."""


class SourceOutOfOrder(SourceError):
    """An event came again, or before one that it follows. It was not delivered. `reason` says which.

    The service, or a cache in front of it, breaks the promise of the API: compare with what its store has.
    """


class SourceGap(SourceError):
    """The service continues after events that it has not sent. None of those after the gap was delivered.

    The service, or a cache in front of it, breaks the promise of the API, for example by dropping `Last-Event-ID`.
    """


class MessageTooLarge(EventsrcError, ValueError):
    """The event `id` makes a message of `size` bytes, and the sink takes `limit`. Nothing of its commit was sent.

    Publish less of it with `PublishedEvent(..., data=...)`, or raise the limit where the service allows it.
    """

    def __init__(self, id: str, size: int, limit: int) -> None:
        super().__init__(id, size, limit)
        self.id, self.size, self.limit = id, size, limit

    def __str__(self) -> str:
        return (
            f"{self.id} makes a message of {self.size:,} bytes, the limit is {self.limit:,}; publish less of it with "
            "`data=`, or raise the limit of the service and of the sink"
        )


class MessageRefused(EventsrcError):
    """The service refuses the event `id` with the error `code`, and will do so again. Later ones were not sent."""

    def __init__(self, id: str, code: str) -> None:
        super().__init__(id, code)
        self.id, self.code = id, code

    def __str__(self) -> str:
        return f"the service refuses {self.id} with {self.code}; fix the queue, topic or rights, and call `retry`"


class StoredDataError(EventsrcError):
    """The data stored for `stream` at `version` cannot be used. `Store.read` still returns the raw commit.

    `stream` is empty if it is not known.
    """

    def __init__(self, stream: str, version: int, reason: str) -> None:
        super().__init__(stream, version, reason)
        self.stream, self.version, self.reason = stream, version, reason

    def __str__(self) -> str:
        return f"{self.stream}@{self.version}: {self.reason}" if self.stream else self.reason


class CorruptPayload(StoredDataError):
    """The stored bytes are damaged, or were not written by this library. Restore them from a backup."""


class PayloadTooLarge(StoredDataError):
    """The payload expands to `size` bytes, and the limit is `limit`. It was refused before it was expanded."""

    def __init__(self, stream: str, version: int, size: int, limit: int) -> None:
        Exception.__init__(self, stream, version, size, limit)
        self.stream, self.version, self.size, self.limit = stream, version, size, limit
        self.reason = (
            f"the payload expands to {size:,} bytes, the limit is {limit:,}; record fewer events per save, or find the "
            "program that wrote it"
        )


class UnknownEventType(StoredDataError):
    """The aggregate has no event class with the stored `tag`. Keep the old class and add an upcaster from it."""

    def __init__(self, stream: str, version: int, tag: str) -> None:
        Exception.__init__(self, stream, version, tag)
        self.stream, self.version, self.tag = stream, version, tag
        self.reason = f"no handled event class has the tag {tag!r}; keep the old class and add an upcaster from it"


class SchemaMismatch(StoredDataError):
    """A stored event lacks a field of its class, or has a field of another type.

    `event` is its tag. `detail` names the field.
    """

    def __init__(self, stream: str, version: int, event: str, detail: str) -> None:
        Exception.__init__(self, stream, version, event, detail)
        self.stream, self.version, self.event, self.detail = stream, version, event, detail
        self.reason = f"event {event!r} does not fit its class: {detail}; keep the old class and add an upcaster"


class UpcasterFailed(StoredDataError):
    """An upcaster raised an error, or returned something else than its annotation says. Nothing was handled.

    `upcaster` is its name. `detail` says what it did, without the content of the event. Fix the upcaster.
    """

    def __init__(self, stream: str, version: int, upcaster: str, detail: str) -> None:
        Exception.__init__(self, stream, version, upcaster, detail)
        self.stream, self.version, self.upcaster, self.detail = stream, version, upcaster, detail
        self.reason = f"the upcaster {upcaster} {detail}; fix the upcaster"


class StreamCorrupt(StoredDataError):
    """`version` is missing though later ones exist, on two reads. Restore the missing commit from a backup."""

    def __init__(self, stream: str, version: int) -> None:
        Exception.__init__(self, stream, version)
        self.stream, self.version = stream, version
        self.reason = "this version is missing though later ones exist; restore the commit from a backup"


class StoreError(EventsrcError):
    """The store could not do what was asked. The subclass says whether anything may have been written."""


class CommitOutcomeUnknown(StoreError):
    """No definite answer came before the deadline, or the call was cancelled. `commit` may be stored, now or later.

    `await repository.settle(error)` sends the same commit with the same id again, and its outcome is exact. So is that
    of saving the *same object* again, and, with a command id, that of issuing the same command again.
    """

    def __init__(self, commit: Commit, reason: str = "") -> None:
        super().__init__(commit, reason)
        self.commit, self.reason = commit, reason
        self.stream, self.version, self.commit_id = commit.stream, commit.version, str(commit.uuid)
        self.sent_to: object = None  # the store, if the error comes from a repository of this process

    def __reduce__(self) -> tuple[Any, ...]:
        return type(self), (self.commit, self.reason)  # a store cannot be sent to another process

    def __str__(self) -> str:
        last = f" (last: {self.reason})" if self.reason else ""
        return (
            f"commit {self.commit_id} to {self.stream}@{self.version}: no definite answer{last}; call "
            "`await repository.settle(error)`, or save the same object again, to learn the outcome"
        )


class TransactionOutcomeUnknown(CommitOutcomeUnknown):
    """No definite answer came for a transaction, or it was cancelled. All of its `commits` may be stored, or none.

    `guards` are the streams that were only read, with their versions. None of the commits may be sent alone.
    `await tx.settle()`, or `await eventsrc.transactions.settle(store, error)`, sends the same transaction again, and
    its outcome is exact. With an inline projection (`has_inline`), only the process that sent it can settle it.
    """

    def __init__(
        self, commits: Sequence[Commit], guards: Sequence[tuple[str, int]], reason: str = "", has_inline: bool = False
    ) -> None:
        super().__init__(commits[0], reason)
        self.commits, self.guards, self.has_inline = tuple(commits), tuple(guards), has_inline
        self.args = (self.commits, self.guards, reason, has_inline)

    def __reduce__(self) -> tuple[Any, ...]:
        return type(self), self.args

    def __str__(self) -> str:
        last = f" (last: {self.reason})" if self.reason else ""
        return (
            f"a transaction of {len(self.commits)} commits, the first to {self.stream}@{self.version}: no definite "
            f"answer{last}; call `await tx.settle()`, or `await eventsrc.transactions.settle(store, error)`, to learn "
            "the outcome"
        )


class Throttled(StoreError):
    """Not done. Until the deadline the service throttled, or a lock, a connection or the aggregate stayed taken."""


class StoreUnavailable(StoreError):
    """Not done. The store gave no usable answer before the deadline. Try again later."""


class StoreRejected(StoreError):
    """Not done, and the same call will fail again. `code` is the service's error code, `advice` says what to do."""

    def __init__(self, code: str, advice: str) -> None:
        super().__init__(code, advice)
        self.code, self.advice = code, advice

    def __str__(self) -> str:
        return f"{self.code}: {self.advice}"


class TransactionsRefused(StoreRejected):
    """Not done: the service refuses this transaction as it is, and would accept a single commit.

    Global tables with multi-Region strong consistency have no transactions, and neither have some other servers of the
    same protocol. Use a table without that consistency, or commit to one stream at a time.
    """

    def __init__(self, code: str, advice: str = "") -> None:
        super().__init__(code, advice)
        self.advice = advice or (
            "the service refuses the transaction; global tables with multi-Region strong consistency, and some "
            "servers, have none: use another table, or save one aggregate at a time"
        )


class FeedTrimmed(StoreError):
    """A feed cannot resume from its checkpoint without missing commits. `reason` says why, `advice` says what to do.

    Nothing after the gap was delivered.

    - If the checkpoint is too old (DynamoDB streams keep changes for 24 hours), resume from an empty checkpoint, which
      reads all commits (`Processor.resume_from`), or from an export. Processors ignore commits that they have handled.
    - If the store was restored from a backup, or is another one, drop the read model and build it again
      (`Processor.forget`). Do not resume: new commits of a restored stream have the versions of lost commits, and a
      processor that has handled those ignores the new ones.
    """

    def __init__(self, reason: str, advice: str = "") -> None:
        super().__init__(reason, advice)
        self.reason = reason
        self.advice = advice or (
            "start again from an empty checkpoint or an export; processors ignore commits that they have handled; "
            "if the store was restored, call `await processor.forget()` instead"
        )

    def __str__(self) -> str:
        return f"{self.reason}; {self.advice}"


class StoreClosed(StoreError):
    """The store is not open, or not in this event loop or process. Open it with `async with store:`."""
