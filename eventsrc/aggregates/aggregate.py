"""Aggregates: state that is folded from events, and commands that record new ones. Pure: no I/O, no await."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from operator import attrgetter
from typing import TYPE_CHECKING, Any, ClassVar, NoReturn, Self

import msgspec

from ..errors import UnhandledEvent
from ..store import Commit
from ..stream_id import stream_id
from .commands import AppliedCommand
from .declaration import declaration_of
from .event import Event, untagged


class Journal(msgspec.Struct):
    """What the framework knows of one aggregate object beside its state: where it stands, what is not saved."""

    stream: str
    version: int = 0
    commit_id: bytes = b""  # of the last commit
    time: int = 0  # of the last commit, µs since the epoch; commit times never go back in a stream
    uncommitted: list[bytes] = []  # events as they will be stored
    commands: dict[str, AppliedCommand] = {}  # oldest first
    draft: Commit | None = None  # sent, or about to be; kept until its outcome is known
    unsure: bool = False  # an earlier try of the draft may have landed
    saving: bool = False
    applying: bool = False  # a handler runs, which must not record
    snapshot: int = 0  # version of the last snapshot
    tail: int = 0  # stored bytes of the commits since the last snapshot
    threshold: int = 0  # the tail must outgrow this before a snapshot is weighed

    def apply(self) -> Journal:
        """While handlers run: `with journal.apply():`. One that records would do so at each load: RuntimeError."""
        if self.applying:
            raise RuntimeError(f"{self.stream}: a handler recorded an event; handlers change state, commands record")
        self.applying = True
        return self

    def __enter__(self) -> None: ...

    def __exit__(self, *error: object) -> None:
        self.applying = False

    def advance_to(self, commit: Commit) -> None:
        """The state is now that of this commit."""
        self.version, self.commit_id, self.time = commit.version, commit.id, commit.time

    def remember(self, commit: Commit, limit: int) -> None:
        """Note the command id of a commit, if it has one; the oldest beyond `limit` are forgotten."""
        if commit.command_id is not None:
            self.commands[commit.command_id] = AppliedCommand.of(commit)
            while len(self.commands) > limit:
                del self.commands[next(iter(self.commands))]


if TYPE_CHECKING:
    # Type checkers see a plain class that takes an id: state comes from events, never from the constructor.
    class _Struct:
        id: str
        _journal: Journal
        __struct_config__: ClassVar[msgspec.structs.StructConfig]
        __struct_fields__: ClassVar[tuple[str, ...]]

        def __init__(self, *, id: str) -> None: ...
        def __init_subclass__(cls, *, tag: str = ..., **options: Any) -> None: ...

else:

    class _Slots:
        __slots__ = ("_journal",)

    class _Struct(_Slots, msgspec.Struct, kw_only=True, tag_field="$", tag=untagged):
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

    The tag is the stream category, for ever. Annotated fields are the state; each has a default, for a new
    aggregate starts from them. Only handlers change state. A handler is found by the annotation of its event;
    the name after `apply_` is for people. Assigning to a name that is no field is an AttributeError.
    """

    upcasters: ClassVar[Sequence[Callable[[Any], Event]]] = ()
    """Functions from an old event class to its successor, e.g. `def renamed(old: V1) -> V2`; they may chain."""

    snapshot_version: ClassVar[int] = 0
    """Raise it when handlers begin to mean something else: older snapshots are then ignored."""

    remembered_commands: ClassVar[int] = 64
    """How many of the latest command ids a stream recognises; a redelivery after more than that is new. Snapshots hold
    as many as there were when they were written."""

    def __post_init__(self) -> None:
        self._journal = Journal(stream_id(declaration_of(type(self)).category, self.id))

    @property
    def stream(self) -> str:
        """Category and id: `account-a-1`."""
        return self._journal.stream

    @property
    def version(self) -> int:
        """Number of the last commit folded in; 0 when there is none yet. Uncommitted events do not count."""
        return self._journal.version

    @property
    def uncommitted(self) -> tuple[Event, ...]:
        """Events recorded and not known to be saved, oldest first."""
        return tuple(map(declaration_of(type(self)).codec.event, self._journal.uncommitted))

    def record(self, event: Event) -> None:
        """Apply an event and keep it for the next save. Raises UnhandledEvent, and InvalidEvent if no reader would
        get it back as it is.

        It is encoded here and now, and the handler gets what is read back, as it will on every load: whatever is done
        to a list inside an event later does not change what is stored.
        """
        declaration = declaration_of(type(self))
        handler = declaration.handlers.get(type(event))
        if handler is None:
            raise UnhandledEvent(type(self).__qualname__, type(event).__qualname__)
        (body, decoded), journal = declaration.codec.encode(event), self._journal
        with journal.apply():
            handler(self, decoded)
        journal.uncommitted.append(body)

    def to_snapshot(self) -> Any:
        """What a snapshot holds; by default all fields.

        Override it together with `from_snapshot` and annotate what it returns: that type is what is decoded, and
        its fields are the snapshot's shape.
        """
        return self

    @classmethod
    def from_snapshot(cls, id: str, state: Any) -> Self:
        """The aggregate that `to_snapshot` returned `state` for."""
        return state  # type: ignore[no-any-return]  # by default the state is the decoded aggregate itself

    def __copy__(self) -> NoReturn:
        raise TypeError("an aggregate is one writer's view of its stream: load it again instead of copying it")

    def __reduce__(self) -> NoReturn:
        self.__copy__()


journal_of: Callable[[Aggregate], Journal] = attrgetter("_journal")
"""Return what the framework knows of an aggregate except its state. There is no other way to it from outside."""


def adopt(aggregate: Aggregate, other: Aggregate) -> None:
    """Give an aggregate the state and the journal of another object of its class, which is not used afterwards."""
    for name in aggregate.__struct_fields__:
        setattr(aggregate, name, getattr(other, name))
    aggregate._journal = journal_of(other)  # noqa: SLF001  # this file owns it
