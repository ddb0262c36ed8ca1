"""Single commands at a time: a process that starts a timer, and then issues its command."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from datetime import datetime
from types import new_class
from typing import Any

from ..aggregates.declaration import declaration_of
from ..aggregates.event import Event
from ..errors import AggregateNotFound
from ..processing.checkpoints.checkpoints import Checkpoints
from ..processing.processor import Processor
from ..repository.repository import Repository
from ..store import Store
from ..uuid7 import uuid7
from .asks import Asks, Command, EncodedCommand, at, end
from .deciding import cancel_timer, start_timer
from .events import Done, Ended, Refused
from .firing import read_clock
from .manager import ProcessManager
from .process import Input, Process
from .timers import Timers


class CommandDue(Event, tag="scheduled.due"):
    """The time of a scheduled command has come."""

    command: EncodedCommand


class Scheduled(Process, tag="scheduled"):
    """One scheduled command."""

    def on_due(self, event: CommandDue) -> Asks:
        yield event.command

    def on_outcome(self, event: Done | Refused) -> Asks:
        yield end()


class Scheduler:
    """Issues commands of the aggregates of `targets` at given times, each exactly once. Their streams are in `store`.

    Run it as a ProcessManager: with `run`, or its `processors` in a Runner. A command is issued at most a second after
    its time while it runs, never before; one that is refused then is stored as refused, and logged in its stream.

    Give schedulers of one store, with other targets, a `tag` of their own: the category of their streams.
    """

    def __init__(
        self,
        store: Store,
        checkpoints: Checkpoints,
        *,
        targets: Sequence[Repository[Any]],
        timers: Timers | None = None,
        clock: Callable[[], int] = read_clock,
        tag: str = "scheduled",
    ) -> None:
        kind = Scheduled if tag == "scheduled" else new_class("Scheduled", (Scheduled,), {"tag": tag})
        self.manager: ProcessManager[Scheduled] = ProcessManager(
            kind, store, checkpoints, targets=targets, sources={}, timers=timers, clock=clock
        )
        self._targets = {declaration_of(each.aggregate_class).category for each in targets}
        self._clock = clock

    async def schedule(self, command: Command, *, at: datetime, key: str = "") -> str:
        """Issue a command, as `command(Order, "o-1", Order.cancel)`, at a time with a zone. Return its key.

        A `key` is used once. Under one that was used before, nothing is scheduled, also after the command was issued or
        cancelled.

        Raises:
            ValueError: the time has no zone.
            TypeError: an argument cannot be stored, or there is no repository for the aggregate.
            StoreError: as a save.
        """
        if command.category not in self._targets:
            raise TypeError(f"{command.aggregate.__qualname__} is none of the targets; give its repository as a target")
        key = key or uuid7().hex()
        due = CommandDue(command=EncodedCommand.of(command))
        executor = self.manager.repository.executor(create=True)
        await executor.execute(key, _schedule, due, at, self._clock())
        return key

    async def cancel(self, key: str) -> bool:
        """Cancel a scheduled command. Return whether it is cancelled: False if there is none, or if it was issued."""
        try:
            return await self.manager.repository.execute(key, _cancel)
        except AggregateNotFound:
            return False

    @property
    def processors(self) -> Sequence[Processor[Any]]:
        """What moves scheduled commands, as ProcessManager.processors: their parked streams are seen here."""
        return self.manager.processors

    async def run(self, **options: Any) -> None:
        """Run until `stop`, as ProcessManager.run."""
        await self.manager.run(**options)

    def stop(self) -> None:
        """Let `run` end."""
        self.manager.stop()


def _schedule(scheduled: Scheduled, due: CommandDue, time: datetime, now: int) -> None:
    if not scheduled.version:
        start_timer(scheduled, at(time, due), Input("", "", (0, 0, 0), now))


def _cancel(scheduled: Scheduled) -> bool:
    timers = [*scheduled.instance.timers, *scheduled.instance.fired]
    for name in timers:
        cancel_timer(scheduled, name)
        scheduled.record(Ended())
    return scheduled.instance.ended and scheduled.instance.asked == 1  # the timer alone
