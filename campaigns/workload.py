"""The workload of clients on any store: all calls of a repository, some of them cancelled."""

from __future__ import annotations

import asyncio
from collections.abc import Awaitable, Callable, Coroutine, Sequence
from contextlib import suppress
from random import Random
from typing import Any, TypeVar

from eventsrc import AggregateNotFound, Commit, ConflictError, EventsrcError, Repository, SnapshotPolicy, Store
from eventsrc.stores import ManagedStore

from .chain import Chain, Refused
from .history import Caller, History

T = TypeVar("T")

Command = tuple[str, str, bytes, str]  # id, key, padding, command id


class Workload:
    """Clients of one table. Each has a store of its own, as if it were another process.

    An append must end within `deadline` seconds of `clock`. `between` is called after each step. The first of `ids`
    must be unique in the history, because keys begin with it.
    """

    def __init__(
        self,
        history: History,
        random: Random,
        make_store: Callable[[], ManagedStore],
        ids: Sequence[str],
        policy: SnapshotPolicy,
        *,
        clock: Callable[[], float],
        deadline: float,
        between: Callable[[], None] = lambda: None,
    ) -> None:
        self.history, self.random = history, random
        self.violations: list[str] = []
        self._make_store, self._ids, self._policy = make_store, ids, policy
        self._clock, self._deadline, self._between = clock, deadline, between
        self._keys = (f"{ids[0]}.k{each}" for each in range(10**9))
        self._issued: list[Command] = []  # commands with ids, to deliver again

    async def play(self, clients: int, steps: int) -> None:
        """Run all clients at once. Each of their tasks makes at most `steps` steps."""
        await asyncio.gather(*(self._client(self.random.randint(steps // 3, steps)) for _ in range(clients)))

    async def go_on(self) -> None:
        """Check that each stream can be loaded, saved and read. Errors pass through."""
        async with self._make_store() as store:
            self.history.watch(store)
            caller = self.history.caller(Repository(Chain, store, snapshots=self._policy))
            for id in self._ids:
                await caller.save(await self._loaded(caller, id, key := next(self._keys)), key)
                await caller.load(id)
                await caller.read(id)

    async def _client(self, steps: int) -> None:
        """Run some tasks on one store. It may be closed while they run, and another one opened."""
        for part in range(self.random.choice((1, 1, 2))):
            store = self._make_store()
            self.history.watch(store)
            self._time(store)
            caller = self.history.caller(
                Repository(Chain, store, snapshots=self._policy, attempts=self.random.randint(1, 5))
            )
            await store.open()
            tasks = [asyncio.create_task(self._work(caller, steps)) for _ in range(self.random.randint(1, 3))]
            if part == 0 and self.random.random() < 0.3:
                await asyncio.sleep(self.random.random() * 2)
                await store.aclose()
            await asyncio.gather(*tasks)
            await store.aclose()
            if store._calls.count or store._tasks:
                self.violations.append("a closed store has calls or tasks in flight")

    def _time(self, store: Store) -> None:
        """Check that each append ends within the deadline."""
        append = store.append

        async def timed(commit: Commit) -> Any:
            begun = self._clock()
            try:
                return await append(commit)
            finally:
                if (took := self._clock() - begun) > self._deadline:
                    self.violations.append(f"an append took {took:.2f} s; the limit is {self._deadline} s")

        store.append = timed  # type: ignore[method-assign]

    async def _work(self, caller: Caller, steps: int) -> None:
        for _ in range(steps):
            step = self._step(caller, self.random.choice(self._ids))
            with suppress(EventsrcError, Refused):
                await (self._cut_short(step) if self.random.random() < 0.12 else step)
            self._between()
            if self.random.random() < 0.3:
                await asyncio.sleep(self.random.expovariate(20.0))

    async def _cut_short(self, step: Coroutine[Any, Any, None]) -> None:
        """Cancel a step after some turns of the loop, or after some time."""
        task = _started(step)
        if self.random.random() < 0.5:
            for _ in range(self.random.randint(0, 12)):
                await asyncio.sleep(0)
        else:
            await asyncio.sleep(self.random.expovariate(20.0))
        task.cancel()
        await asyncio.wait([task])
        if not task.cancelled():
            task.result()

    async def _step(self, caller: Caller, id: str) -> None:
        kinds: list[tuple[float, Callable[[], Awaitable[None]]]] = [
            (30, lambda: caller.execute(id, next(self._keys), self._padding())),
            (15, lambda: self._deliver(caller, id)),
            (10, lambda: self._deliver_again(caller)),
            (15, lambda: self._save(caller, id)),
            (4, lambda: self._create(caller, id)),
            (14, lambda: self._load(caller, id)),
            (5, lambda: caller.look(id)),
            (3, lambda: caller.past(id, self.random.randint(1, 12))),
            (3, lambda: caller.read(id)),
        ]
        [step] = self.random.choices([step for _, step in kinds], [weight for weight, _ in kinds])
        await step()

    def _padding(self) -> bytes:
        return bytes(self.random.choice((0, 0, 10, 200)))

    async def _load(self, caller: Caller, id: str) -> None:
        await caller.load(id)

    async def _deliver(self, caller: Caller, id: str) -> None:
        """Execute a command with an id, so that it can be delivered again."""
        key = next(self._keys)
        command = (id, key, self._padding(), f"c-{key}")
        self._issued.append(command)
        await caller.execute(*command)

    async def _deliver_again(self, caller: Caller) -> None:
        if self._issued:
            await caller.execute(*self.random.choice(self._issued[-20:]))

    async def _create(self, caller: Caller, id: str) -> None:
        chain = Chain(id=id)
        chain.link(key := next(self._keys))
        await caller.save(chain, key)

    async def _save(self, caller: Caller, id: str) -> None:
        """Load, record, save. Save the same object again while its outcome is unknown, sometimes with more events."""
        keys = [next(self._keys)]
        chain = await self._loaded(caller, id, keys[0])
        command_id = f"c-{keys[0]}" if self.random.random() < 0.3 else None
        for again in range(4):
            try:
                await self._saved(caller, chain, keys, command_id)
                break
            except ConflictError:
                if self.random.random() < 0.5:  # else save the same object again: it must conflict again
                    break
            except EventsrcError:
                if again == 3:
                    raise
                if self.random.random() < 0.3:
                    command_id = None
                    keys.append(next(self._keys))
                    chain.link(keys[-1])

    async def _saved(self, caller: Caller, chain: Chain, keys: list[str], command_id: str | None) -> None:
        """Save. Sometimes cancel the save, so that its outcome is unknown; the caller continues with the object."""
        if self.random.random() < 0.2:
            task = _started(caller.save(chain, *keys, command_id=command_id))
            await asyncio.sleep(self.random.expovariate(100.0))
            task.cancel()
            await asyncio.wait([task])
            if not task.cancelled():
                task.result()
                return
        await caller.save(chain, *keys, command_id=command_id)

    async def _loaded(self, caller: Caller, id: str, key: str) -> Chain:
        """Return a loaded aggregate, or a new one if there is none, with one more link recorded."""
        try:
            chain = await caller.load(id)
        except AggregateNotFound:
            chain = Chain(id=id)
        chain.link(key, self._padding())
        return chain


def _started(work: Coroutine[Any, Any, T]) -> asyncio.Task[T]:
    """Start a task whose outcome may stay unread, because its caller may be cancelled too."""
    task = asyncio.create_task(work)
    task.add_done_callback(lambda done: done.cancelled() or done.exception())
    return task
