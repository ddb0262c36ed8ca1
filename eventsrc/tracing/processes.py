"""The processes of a trace: what each waits for, and what became of its timers."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from contextlib import aclosing
from typing import TYPE_CHECKING

import msgspec

from ..aggregates.codec import unpack
from ..concurrency import load_all
from ..errors import StoredDataError, StoreError
from ..store import Commit, Store
from .trace import Found, ProcessState, TimerState

if TYPE_CHECKING:
    from ..processes.describing import Recorded

MAX_PROCESSES = 100
"""Processes of a trace whose streams are read."""

_AT_ONCE = 8


async def find_processes(
    stores: Mapping[str, Store], found: Sequence[Found], failures: list[str]
) -> tuple[ProcessState, ...]:
    """Return the states of the processes that have commits in a trace, as they are now.

    Their streams are read to the end: a process may have continued in another trace. What cannot be read is added to
    `failures`.
    """
    keys = dict.fromkeys((each.store, each.commit.stream) for each in found if _is_of_process(each.commit))
    if len(keys) > MAX_PROCESSES:
        failures.append(f"only the first {MAX_PROCESSES} of {len(keys):,} processes are shown")

    async def read(key: tuple[str, str]) -> ProcessState | None:
        store, stream = key
        try:
            return await _read_process(stores[store], store, stream)
        except (StoreError, StoredDataError) as error:
            failures.append(f"{stream}: {type(error).__name__}: {error}")
            return None

    states = await load_all(read, list(keys)[:MAX_PROCESSES], _AT_ONCE)
    return tuple(state for state in states.values() if state is not None)


async def _read_process(store: Store, name: str, stream: str) -> ProcessState:
    from ..processes.describing import read_recorded  # here, as in `finding`: few programs have processes

    state = _State()
    async with aclosing(store.read(stream)) as commits:
        async for commit in commits:
            if _is_of_process(commit):
                for event in msgspec.msgpack.decode(unpack(commit.payload, commit.stream, commit.version)):
                    if (recorded := read_recorded(event)) is not None:
                        state.add(recorded)
    pending, timers = tuple(state.pending.values()), tuple(state.timers.values())
    return ProcessState(stream=stream, store=name, ended=state.ended, pending=pending, timers=timers)


class _State:
    """What the commits of a process say, so far."""

    def __init__(self) -> None:
        self.ended = False
        self.pending: dict[int, str] = {}  # by number
        self.timers: dict[int, TimerState] = {}

    def add(self, event: Recorded) -> None:
        from ..processes import describing, events

        if isinstance(event, events.CommandRequested):
            self.pending[event.number] = describing.name_command(event.category, event.name, event.id)
        elif isinstance(event, events.CallRequested):
            self.pending[event.number] = event.service
        elif isinstance(event, events.Done | events.Refused | events.Answered):
            self.pending.pop(event.number, None)
        elif isinstance(event, events.TimerStarted):
            self.timers[event.number] = TimerState(name=event.name, due=event.due)
        elif isinstance(event, events.TimerFired):
            self._replace(event.number, state="fired", fired=event.at)
        elif isinstance(event, events.TimerCancelled):
            self._replace(event.number, state="cancelled")
        elif isinstance(event, events.Ended):
            self.ended = True

    def _replace(self, number: int, **changes: object) -> None:
        if (timer := self.timers.get(number)) is not None:
            self.timers[number] = msgspec.structs.replace(timer, **changes)


def _is_of_process(commit: Commit) -> bool:
    return any(tag.startswith("process.") for tag in commit.tags)
