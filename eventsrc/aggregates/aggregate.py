"""Aggregates: state folded from events, and commands that record new events. Pure: no I/O, no await."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from datetime import timedelta
from operator import attrgetter
from typing import TYPE_CHECKING, Any, ClassVar, NoReturn, Self

import msgspec

from ..store import Commit
from ..stream_id import stream_id
from .commands import AppliedCommand, add_command
from .declaration import declaration_of, explain_unhandled
from .event import Event, Upcaster, untagged
from .metaclass import AggregateMeta


class Journal(msgspec.Struct):
    """The bookkeeping of one aggregate object: its version, its unsaved events, and all else except its state."""

    stream: str
    version: int = 0
    commit_id: bytes = b""  # of the last commit
    store: object = None  # that is known to have the last commit
    time: int = 0  # of the last commit, µs since the epoch; never decreases within a stream
    uncommitted: list[bytes] = []  # encoded events
    commands: dict[str, AppliedCommand] = {}  # oldest first
    draft: Commit | None = None  # being sent; kept until its outcome is known
    sent_to: object = None  # the store that the draft was sent to
    ambiguous: bool = False  # an earlier try may have stored the draft
    saving: bool = False
    applying: bool = False  # a handler runs; it must not record
    snapshot: int = 0  # version of the last snapshot
    tail: int = 0  # stored bytes of the commits since the last snapshot
    threshold: int = 0  # bytes; a snapshot is encoded only when the tail is longer

    def handlers_running(self) -> Journal:
        """Guard the block in which handlers run: one that records an event would do so at each load. RuntimeError."""
        if self.applying:
            raise RuntimeError(f"{self.stream}: a handler recorded an event; record only in commands")
        self.applying = True
        return self

    def __enter__(self) -> None: ...

    def __exit__(self, *error: object) -> None:
        self.applying = False

    def advance_to(self, commit: Commit) -> None:
        """Note that the state is the one after this commit."""
        self.version, self.commit_id, self.time = commit.version, commit.id, commit.time

    def remember(self, commit: Commit, limit: int | timedelta) -> None:
        """Remember the command id of a commit, if it has one. Forget the oldest ids beyond `limit`."""
        if commit.command_id is not None:
            add_command(self.commands, commit.command_id, commit, limit)


if TYPE_CHECKING:
    # Type checkers see a constructor that takes only an id, because state comes from events.
    class _Struct:
        id: str
        _journal: Journal
        __struct_config__: ClassVar[msgspec.structs.StructConfig]
        __struct_fields__: ClassVar[tuple[str, ...]]

        def __init__(self, *, id: str) -> None: ...
        def __init_subclass__(cls, *, tag: str = ..., **options: Any) -> None: ...

else:

    class _Slots:  # not a field, so that neither msgspec nor a snapshot sees it
        __slots__ = ("_journal",)

    class _Struct(_Slots, msgspec.Struct, metaclass=AggregateMeta, kw_only=True, tag_field="$", tag=untagged):
        id: str


class Aggregate(_Struct):
    """A consistency boundary: the fold of one stream of events.

    ```python
    class Account(Aggregate, tag="account"):
        balance: int = 0

        def withdraw(self, amount: int) -> int:  # a command is a method: check, record, return
            if amount > self.balance:
                raise InsufficientFunds(self.balance)
            self.record(Withdrawn(amount=amount))
            return self.balance

        def apply_movement(self, event: Deposited | Withdrawn) -> None: ...
    ```

    - The tag is the stream category. It never changes.
    - Annotated fields are the state. Each has a default, from which a new aggregate starts.
    - Only handlers change state. The annotation of its event selects a handler; the name after `apply_` is free.
    - Assigning to a name that is not a field raises AttributeError.
    """

    upcasters: ClassVar[Sequence[Upcaster]] = ()
    """Functions from an old event class to its successor, e.g. `def renamed(old: V1) -> V2`. They may form chains, and
    may return several events, `-> list[V2 | V3]`, or none, `-> None`."""

    snapshot_version: ClassVar[int] = 0
    """Increase it when the meaning of a handler changes. Older snapshots are then ignored."""

    remembered_commands: ClassVar[int | timedelta] = 64
    """How many of the latest command ids a stream recognises, or those of which time: `timedelta(days=14)`, or
    `timedelta.max` for all. A redelivery of an older id is applied again. docs/aggregates.md has the cost."""

    def __post_init__(self) -> None:
        self._journal = Journal(stream_id(declaration_of(type(self)).category, self.id))

    @property
    def stream(self) -> str:
        """Category and id, e.g. `account-a-1`."""
        return self._journal.stream

    @property
    def version(self) -> int:
        """The number of the last commit applied, 0 if there is none. Uncommitted events do not count."""
        return self._journal.version

    @property
    def uncommitted(self) -> tuple[Event, ...]:
        """Recorded events that are not known to be saved, oldest first."""
        return tuple(map(declaration_of(type(self)).codec.decode_event, self._journal.uncommitted))

    def record(self, event: Event) -> None:
        """Apply an event and keep it for the next save.

        The event is encoded at once, and the handler receives it decoded again, as on every load. Later changes to a
        list inside the event do not change the stored event.

        Raises:
            UnhandledEvent: the aggregate has no handler for it.
            InvalidEvent: it would not be read back as an equal event.
        """
        declaration = declaration_of(type(self))
        handler = declaration.handlers.get(type(event))
        if handler is None:
            raise explain_unhandled(type(self), event)
        (body, decoded), journal = declaration.codec.encode(event), self._journal
        with journal.handlers_running():
            handler(self, decoded)
        journal.uncommitted.append(body)

    def to_snapshot(self) -> Any:
        """Return the content of a snapshot, by default all fields.

        Override it together with `from_snapshot`, and annotate its return type: snapshots are decoded as that type,
        and its fields are the snapshot's shape.
        """
        return self

    @classmethod
    def from_snapshot(cls, id: str, state: Any) -> Self:
        """Return the aggregate for which `to_snapshot` returned `state`."""
        return state  # type: ignore[no-any-return]  # by default the state is the decoded aggregate itself

    def __copy__(self) -> NoReturn:
        raise TypeError("an aggregate object belongs to one writer and cannot be copied; load it again")

    def __reduce__(self) -> NoReturn:
        self.__copy__()


journal_of: Callable[[Aggregate], Journal] = attrgetter("_journal")
"""Return the journal of an aggregate. Other modules reach it only through this function."""


def adopt(aggregate: Aggregate, other: Aggregate) -> None:
    """Move the state and the journal of `other` into `aggregate`. `other` must not be used afterwards."""
    for name in aggregate.__struct_fields__:
        setattr(aggregate, name, getattr(other, name))
    aggregate._journal = journal_of(other)  # noqa: SLF001  # this file owns it
