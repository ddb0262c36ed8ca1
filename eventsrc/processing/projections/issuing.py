"""Commands from handlers: each is applied at most once, however often and however late its event is handled again."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from hashlib import sha256
from typing import Any, Concatenate, ParamSpec, TypeVar
from weakref import WeakKeyDictionary

import msgspec

from ...aggregates.aggregate import Aggregate
from ...aggregates.event import Event
from ...errors import AggregateNotFound
from ...repository.execution import Executed
from ...repository.repository import Repository
from ...store import Commit, EventId, EventIndex, Store
from ...stores.feed import Feed
from ...stream_id import MAX_STREAM_BYTES
from ...trace_context import TraceContext, enter, leave
from ..slice import Context

A = TypeVar("A", bound=Aggregate)
T = TypeVar("T")
P = ParamSpec("P")

Place = tuple[int, int, int]
"""The place of an event in its stream: version, index and part."""

Issued = Mapping[tuple[Place, int], int]
"""By place and number of each command of an issuer: the version of its aggregate from before it was first issued."""

_HELD = 64
"""So many issuers are remembered in any case, more than handlers run at once."""

_COMMANDS = 20_000
"""More issuers are remembered as long as they have issued so many commands in total."""


class CommandIssued(Event, tag="eventsrc.issued"):
    """A handler is about to issue a command for the first time."""

    place: Place  # of the event that it handles
    number: int  # of the command, among those of this handler for this event
    stream: str  # of the aggregate
    version: int  # of the aggregate before: no earlier commit is the command's


class Issuer(Aggregate, tag="issued"):
    """The commands that a processor has issued for the last handled event of one stream.

    They are stored with the aggregates, so that both are restored together. The state does not grow.
    """

    place: Place = (0, 0, 0)
    targets: dict[str, tuple[str, int]] = msgspec.field(default_factory=dict)  # by number: stream and version

    def issue(self, place: Place, number: int, stream: str, version: int) -> int:
        """Return the version of the aggregate from before the command was first issued; -1 if that is not known here.

        Raises RuntimeError if it was issued to another aggregate.
        """
        if place < self.place:  # a later event was handled since; its stream still says it
            return -1
        if place > self.place or str(number) not in self.targets:
            self.record(CommandIssued(place=place, number=number, stream=stream, version=version))
        known, version = self.targets[str(number)]
        if known != stream:
            raise RuntimeError(
                f"command {number} of this handler went to {known} before, and goes to {stream} now; a handler that is "
                "called again for an event must issue the same commands in the same order"
            )
        return version

    def apply_issued(self, event: CommandIssued) -> None:
        if event.place != self.place:
            self.place, self.targets = event.place, {}
        self.targets[str(event.number)] = event.stream, event.version


class Issuing:
    """Issues the commands of one processor, for events of the store `source`."""

    def __init__(self, tag: str, source: Store) -> None:
        self._tag, self._source, self._origin = tag, source, ""
        self._issuers: WeakKeyDictionary[Store, Repository[Issuer]] = WeakKeyDictionary()
        self._earlier: dict[tuple[Repository[Issuer], str], Issued] = {}  # by issuer, the last used at the end

    async def command_id(self, cause: EventId, number: int) -> str:
        """Return the id of a command of the handler that handles this event."""
        return f"{self._tag}:{await self._read_origin()}:{cause}:{number}"

    async def since(self, repository: Repository[A], id: str, cause: EventId, number: int) -> int:
        """Return a version of the aggregate from before the command was first issued. It is stored, if it is new."""
        if (issuers := self._issuers.get(repository.store)) is None:
            issuers = self._issuers[repository.store] = Repository(Issuer, repository.store)
        version = await read_version(repository, id)
        stream = repository.aggregate_class(id=id).stream
        token = enter(TraceContext())  # so that it is not shown as a step of the trace
        try:
            key, place = await self._key(cause.stream), (cause.version, cause.index, cause.part)
            executor = issuers.executor(create=True)
            executed = await executor.execute(key, Issuer.issue, place, number, stream, version)
        finally:
            leave(token)
        if (since := executed.result) is None or since < 0:
            return (await self._read_earlier(issuers, key)).get((place, number), 0)
        return since

    async def _read_earlier(self, issuers: Repository[Issuer], key: str) -> Issued:
        """Return what an issuer has issued. It is read once for all events that are handled again."""
        known = self._earlier.pop((issuers, key), None)
        if known is None:
            known = {
                (event.place, event.number): event.version
                async for _, events in issuers.history(key)
                for event in events
                if isinstance(event, CommandIssued)
            }
            while len(self._earlier) >= _HELD and sum(map(len, self._earlier.values())) + len(known) > _COMMANDS:
                del self._earlier[next(iter(self._earlier))]
        self._earlier[issuers, key] = known
        return known

    async def _read_origin(self) -> str:
        """Return a text that names the store of the events: streams of other stores may have the same names."""
        if not self._origin and isinstance(self._source, Feed):
            self._origin = await self._source.identity()
        return self._origin

    async def _key(self, stream: str) -> str:
        """Return the id of the issuer for a stream: of a hash, if the stream's own id is too long."""
        begin = f"{self._tag}:{(await self._read_origin()).replace('|', ':')}:"
        if len(begin) + len(stream.encode()) < MAX_STREAM_BYTES - len("issued-"):
            return begin + stream
        return f"{begin}#{sha256(stream.encode()).hexdigest()}"


class EffectContext(Context):
    """A context that issues commands."""

    __slots__ = ("_issuing", "_number")

    def __init__(self, commit: Commit, index: EventIndex, muted: bool, issuing: Issuing) -> None:
        super().__init__(commit, index, muted)
        self._issuing, self._number = issuing, 0

    async def execute(
        self,
        repository: Repository[A],
        id: str,
        command: Callable[Concatenate[A, P], T],
        /,
        *args: P.args,
        **kwargs: P.kwargs,
    ) -> Executed[T | None]:
        """Execute a command, as `Repository.execute` does. It is applied at most once for this event.

        - The command id is made of the processor's tag, the event's id, and the number of this command among those of
          the handler. So a handler must issue the same commands in the same order, whenever it is called for an event.
        - If it was applied in an earlier attempt, `duplicate` is true, and the receipt is that of its commit: however
          many other commands the aggregate took since then, and whatever happened to the checkpoints.
        - A command that raised, or recorded nothing, is decided again in the next attempt.
        - It costs a read and a write in addition to the command: the version of the aggregate is stored first.

        Raises:
            RuntimeError: the command went to another aggregate in an earlier attempt.
            IdempotencyError: it was another command, or had other arguments.
            Exception: as `Repository.execute`.
        """
        return await self._execute(repository, id, False, command, args, kwargs)

    async def create_or_execute(
        self,
        repository: Repository[A],
        id: str,
        command: Callable[Concatenate[A, P], T],
        /,
        *args: P.args,
        **kwargs: P.kwargs,
    ) -> Executed[T | None]:
        """Do as `execute`, on a new aggregate if there is none with this id."""
        return await self._execute(repository, id, True, command, args, kwargs)

    async def _execute(
        self, repository: Repository[A], id: str, create: bool, command: Callable[..., Any], args: Any, kwargs: Any
    ) -> Executed[Any]:
        number, self._number = self._number, self._number + 1
        cause = self.commit.event_id(self._index)
        since = await self._issuing.since(repository, id, cause, number)
        executor = repository.executor(
            command_id=await self._issuing.command_id(cause, number), since=since, create=create
        )
        return await executor.execute(id, command, *args, **kwargs)


async def read_version(repository: Repository[A], id: str) -> int:
    """Return the version of an aggregate, 0 if it does not exist. Its state is remembered for the next command."""
    try:
        return await repository.execute(id, _version_of)
    except AggregateNotFound:
        return 0


def _version_of(aggregate: Aggregate) -> int:
    return aggregate.version
