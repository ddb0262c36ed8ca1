"""The process manager: runs the processes of one class."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from typing import Any, Generic, Literal, TypeVar

from ..concurrency import run_together
from ..processing.checkpoints.checkpoints import Checkpoints
from ..processing.leases import Leases
from ..processing.processor import Processor
from ..processing.runner import Runner
from ..repository.repository import Repository
from ..store import Store
from .firing import read_clock
from .handlers import handlers_of
from .process import Process
from .projections import make_commands, make_inputs, make_timers
from .steps import Service, Steps
from .timers import Timers, timers_in

PR = TypeVar("PR", bound=Process)


class ProcessManager(Generic[PR]):
    """Runs the processes of one class, whose streams are in `store`.

    ```python
    fulfilment = ProcessManager(Fulfilment, store, checkpoints, targets=[orders, stock])
    await fulfilment.run()
    ```

    - `targets` are the repositories of the aggregates that the processes command, of any stores.
    - `sources` are the stores whose events they react to, by name; without them, `store` alone, under the name "". A
      name never changes: under another one, all events of the store are taken in again, by other processes or as new
      inputs of the same.
    - `start="now"` takes in the events that are stored after the first run started, see Processor. By default processes
      react to all events of their sources, however old.
    - `services` are async functions that processes call, by name: `async def charge(request: Charge, key: str)`, which
      return an event or None. Each call has a key of its own, the same in each attempt. What the function raises is
      retried, except ServiceRefused.
    - What fails is retried. After `attempts` a stream is parked, see Processor: that of the process for its commands
      and timers, and that of the event for inputs. Stores and targets that cannot be reached are waited for instead.
    - It consists of processors: they can be run in a Runner with others, with leases, or in Lambda.
    - `clock` returns the time in µs since the epoch: timers fire by it.
    """

    def __init__(
        self,
        process: type[PR],
        store: Store,
        checkpoints: Checkpoints,
        *,
        targets: Sequence[Repository[Any]] = (),
        sources: Mapping[str, Store] | None = None,
        services: Mapping[str, Service] | None = None,
        timers: Timers | None = None,
        start: Literal["beginning", "now"] = "beginning",
        attempts: int = 5,
        handler_timeout: float = 30.0,
        clock: Callable[[], int] = read_clock,
    ) -> None:
        handlers_of(process)
        self.repository: Repository[PR] = Repository(process, store)
        steps = Steps(self.repository, targets, services or {}, clock)
        self.timers = timers or timers_in(checkpoints)
        keeps, self._firing = make_timers(steps, self.timers, clock)
        options: dict[str, Any] = {"attempts": attempts, "handler_timeout": handler_timeout}
        inputs = [
            Processor(make_inputs(steps, name), source, checkpoints, start=start, **options)
            for name, source in ({"": store} if sources is None else sources).items()
        ]
        self.processors: Sequence[Processor[Any]] = [
            *inputs,
            Processor(make_commands(steps), store, checkpoints, **options),
            Processor(keeps, store, checkpoints, **options),
        ]
        self._runners: Sequence[Runner] = ()
        self._is_stopped = False

    def stop(self) -> None:
        """Let `run` end, as Runner.stop."""
        self._is_stopped = True
        for runner in self._runners:
            runner.stop()

    async def run(
        self,
        *,
        until_caught_up: bool = False,
        leases: Callable[[], Leases] | None = None,
        save_every: float = 1.0,
    ) -> None:
        """Run all processors, with a Runner for each store, until `stop` is called. Raises as Runner.run.

        - `until_caught_up` ends when all is handled that is stored by then; timers that are not due stay pending.
        - `leases` returns the leases for one runner: then several workers share the processes.
        """
        if leases is not None and not callable(leases):
            raise TypeError("each runner has leases of its own; give a function: run(leases=lambda: Leases())")
        if self._runners:
            raise RuntimeError("the processes are running already; use another manager for a second run")
        try:
            if until_caught_up:
                await self._run_until_caught_up(save_every)
            elif not self._is_stopped:
                self._runners = self._make_runners(leases, save_every)
                await run_together(runner.run() for runner in self._runners)
        finally:
            self._runners, self._is_stopped = (), False

    async def fire_due(self) -> int:
        """Fire the timers that are due now, of all processes, and return their number: for a schedule, as in Lambda."""
        await self.timers.prepare()
        self._firing.forget()
        fired = 0
        while more := await self._firing.fire_due(lambda stream: True):
            fired += more
        return fired

    async def _run_until_caught_up(self, save_every: float) -> None:
        """Run to the end of the feeds until nothing happens any more: each step makes new events."""
        done = (-1, -1)
        while not self._is_stopped and (done != (done := self._count_done()) or await self.fire_due()):
            self._runners = self._make_runners(None, save_every)
            for runner in self._runners:
                await runner.run(until_caught_up=True)

    def _count_done(self) -> tuple[int, int]:
        """Return how many commits were handled, and how many timers have fired."""
        return sum(each.pipeline.progress.commits for each in self.processors), self._firing.fired

    def _make_runners(self, leases: Callable[[], Leases] | None, save_every: float) -> Sequence[Runner]:
        by_store: dict[int, list[Processor[Any]]] = {}
        for processor in self.processors:
            by_store.setdefault(id(processor.store), []).append(processor)
        return [
            Runner(*processors, leases=leases() if leases is not None else None, save_every=save_every)
            for processors in by_store.values()
        ]
