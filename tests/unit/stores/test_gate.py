"""The gate passes each commit once and in order, even if the transport repeats, reorders or drops commits."""

from __future__ import annotations

import asyncio
from collections.abc import Iterable
from random import Random

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from eventsrc import Commit, MemoryStore, StreamCorrupt
from eventsrc.stores.gate import Gate
from eventsrc.testing.contract.samples import fill, make_commit


async def handle(gate: Gate, hints: list[Commit], handled: list[Commit]) -> None:
    for hint in hints:
        for commit in await gate.due(hint):
            handled.append(commit)
            gate.handled(commit)


def ids(commits: Iterable[Commit]) -> list[bytes]:
    return [commit.id for commit in commits]


@settings(max_examples=60)
@given(st.integers(0, 2**32), st.integers(1, 60), st.floats(0, 1), st.floats(0, 0.5))
def test_each_commit_is_due_once_and_in_order(seed: int, commits: int, repeated: float, dropped: float) -> None:
    random = Random(seed)

    async def run() -> None:
        async with MemoryStore() as store:
            streams = {name: await fill(store, name, commits) for name in ("a-1", "a-2", "b-1")}
            hints = [commit for stored in streams.values() for commit in stored if random.random() >= dropped]
            hints += [hint for hint in hints if random.random() < repeated]
            random.shuffle(hints)
            last = [stored[-1] for stored in streams.values()]  # as later writes do after dropped commits
            handled: list[Commit] = []
            await handle(Gate(store, {}), [*hints, *last], handled)
            for name, stored in streams.items():
                assert ids(commit for commit in handled if commit.stream == name) == ids(stored)

    asyncio.run(run())


async def test_a_gate_continues_after_the_last_handled_version() -> None:
    async with MemoryStore() as store:
        commits = await fill(store, "a-1", 9)
        handled: list[Commit] = []
        await handle(Gate(store, {"a-1": 4}), [commits[2], commits[7], commits[8]], handled)
        assert ids(handled) == ids(commits[4:])


async def test_commits_that_were_not_handled_are_due_again() -> None:
    async with MemoryStore() as store:
        commits = await fill(store, "a-1", 3)
        gate = Gate(store, {})
        assert ids(await gate.due(commits[2])) == ids(commits)
        gate.handled(commits[0])
        assert ids(await gate.due(commits[2])) == ids(commits[1:])


async def test_a_gate_works_while_writers_continue() -> None:
    async with MemoryStore() as store:
        hints: asyncio.Queue[Commit] = asyncio.Queue()
        stored: list[Commit] = []

        async def write() -> None:
            for version in range(1, 200):
                await store.append(commit := make_commit("a-1", version))
                stored.append(commit)
                if version % 7 == 0 or version == 199:
                    hints.put_nowait(commit)

        writing, handled, gate = asyncio.create_task(write()), list[Commit](), Gate(store, {})
        while len(handled) < 199:
            await handle(gate, [await hints.get()], handled)
        await writing
        assert ids(handled) == ids(stored)


async def test_a_version_missing_in_the_store_raises_stream_corrupt() -> None:
    async with MemoryStore() as store:
        commits = await fill(store, "a-1", 5)
        del store._streams["a-1"][2:]
        with pytest.raises(StreamCorrupt):
            await Gate(store, {}).due(commits[4])
