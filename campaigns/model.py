"""The model test: compare all stores and layouts with a dictionary, call by call."""

from __future__ import annotations

import asyncio
import os
from collections.abc import Callable, Coroutine
from pathlib import Path
from tempfile import TemporaryDirectory
from time import perf_counter
from typing import Any, TypeVar

import hypothesis
import msgspec
from hypothesis import HealthCheck, Phase, settings
from hypothesis import strategies as st
from hypothesis.stateful import (
    RuleBasedStateMachine,
    initialize,
    invariant,
    precondition,
    rule,
    run_state_machine_as_test,
)
from support.tables import fresh_name, store_on

from eventsrc import (
    AggregateNotFound,
    Commit,
    ConflictError,
    MemoryStore,
    Receipt,
    Repository,
    Snapshot,
    SnapshotPolicy,
    SQLiteStore,
    Store,
)
from eventsrc.testing.contract.samples import make_commit, make_snapshot

from .chain import ROOT, Chain, chained
from .progress import report
from .report import Layer

T = TypeVar("T")

STREAMS = st.sampled_from(("one", "two"))
SIZES = st.sampled_from((0, 10, 10, 3_000, 200_000))
VERSIONS = st.integers(-2, 12)
LAYOUTS = ("snapshot-last", "snapshot-first", "interleaved")


class Machine(RuleBasedStateMachine):
    """Make each call on every store. All stores must answer like the model."""

    endpoint: str
    tables: dict[str, str]
    loop: asyncio.Runner
    calls = 0
    begun = examples = 0

    @initialize()
    def begin(self) -> None:
        type(self).begun += 1
        report(self.begun, self.examples)
        self._folder = TemporaryDirectory()
        self._stores: dict[str, Store] = {
            "memory": MemoryStore(),
            "sqlite": SQLiteStore(Path(self._folder.name) / "events.db"),
            **{layout: self._on_dynamodb(layout) for layout in LAYOUTS},
        }
        self._each(lambda store: store.open())
        self._prefix = os.urandom(6).hex()  # tables are shared by all examples
        self._log: dict[str, list[Commit]] = {"one": [], "two": []}
        self._snapshots: dict[str, Snapshot] = {}
        self._keys: list[str] = []  # keys of the chain

    def _on_dynamodb(self, layout: str) -> Store:
        options: dict[str, Any] = {"layout": layout}
        return store_on(self.endpoint, self.tables[layout], **options)

    def _stream(self, name: str) -> str:
        return f"{self._prefix}-{name}"

    def _each(self, call: Callable[[Store], Coroutine[Any, Any, T]]) -> dict[str, T]:
        """Return the answer of each store by name."""
        type(self).calls += len(self._stores)

        async def answers() -> list[T]:
            return await asyncio.gather(*(call(store) for store in self._stores.values()))

        return dict(zip(self._stores, self.loop.run(answers()), strict=True))

    def _expect(self, call: Callable[[Store], Coroutine[Any, Any, T]], expected: T) -> None:
        for name, answer in self._each(call).items():
            assert answer == expected, f"{name} answered {answer!r}, not {expected!r}"

    @rule(name=STREAMS, size=SIZES)
    def append(self, name: str, size: int) -> None:
        log = self._log[name]
        commit = make_commit(self._stream(name), len(log) + 1, payload=os.urandom(size), metadata={"n": name})
        log.append(commit)
        self._expect(lambda store: _landed(store, commit), (commit.version, commit.id))

    @precondition(lambda self: any(self._log.values()))
    @rule(data=st.data())
    def append_in_a_place_that_is_taken(self, data: st.DataObject) -> None:
        log = self._log[data.draw(st.sampled_from([name for name, log in self._log.items() if log]))]
        winner = data.draw(st.sampled_from(log))
        loser = make_commit(winner.stream, winner.version)
        self._expect(lambda store: _landed(store, loser), ("conflict", winner.id))

    @precondition(lambda self: any(self._log.values()))
    @rule(data=st.data())
    def append_again(self, data: st.DataObject) -> None:
        log = self._log[data.draw(st.sampled_from([name for name, log in self._log.items() if log]))]
        commit = data.draw(st.sampled_from(log))
        self._expect(lambda store: _landed(store, commit), (commit.version, commit.id))

    @precondition(lambda self: any(self._log.values()))
    @rule(data=st.data())
    def put_snapshot(self, data: st.DataObject) -> None:
        name = data.draw(st.sampled_from([name for name, log in self._log.items() if log]))
        version = data.draw(st.integers(1, len(self._log[name])))
        snapshot = make_snapshot(self._stream(name), version, payload=os.urandom(20))
        standing = self._snapshots.get(name)
        newer = standing is None or standing.version < version
        if newer:
            self._snapshots[name] = snapshot
        self._expect(lambda store: store.put_snapshot(snapshot), newer)

    @rule(name=STREAMS)
    def load(self, name: str) -> None:
        snapshot = self._snapshots.get(name)
        commits = self._log[name][snapshot.version - 1 if snapshot else 0 :]
        self._expect(lambda store: _loaded(store, self._stream(name)), (snapshot, commits))

    @rule(name=STREAMS, after=VERSIONS, until=VERSIONS, backward=st.booleans())
    def read(self, name: str, after: int, until: int, backward: bool) -> None:
        commits = [commit for commit in self._log[name] if after < commit.version <= until]
        expected = commits[::-1] if backward else commits
        self._expect(lambda store: _read(store, self._stream(name), after, until, backward), expected)

    @rule(links=st.integers(1, 3), by_execute=st.booleans())
    def save(self, links: int, by_execute: bool) -> None:
        keys = [f"k{len(self._keys) + each}" for each in range(1 if by_execute else links)]
        self._keys += keys
        digest = chained(ROOT, self._keys)

        async def saved(store: Store) -> bytes:
            chains = self._chains(store)
            if by_execute and len(self._keys) > 1:
                return await chains.execute(self._prefix, Chain.link, keys[0])
            try:
                chain = await chains.load(self._prefix)
            except AggregateNotFound:
                chain = Chain(id=self._prefix)
            for key in keys:
                chain.link(key)
            await chains.save(chain)
            return chain.digest

        self._expect(saved, digest)

    def _chains(self, store: Store) -> Repository[Chain]:
        return Repository(Chain, store, snapshots=SnapshotPolicy(floor=0, ratio=0.3, inline=True))

    @rule()
    def load_aggregate(self) -> None:
        async def state(store: Store) -> tuple[bytes, int]:
            try:
                chain = await self._chains(store).load(self._prefix)
            except AggregateNotFound:
                return ROOT, 0
            return chain.digest, chain.links

        self._expect(state, (chained(ROOT, self._keys), len(self._keys)))

    @rule()
    def replay(self) -> None:
        """The history, and a load of the last version, give the same state as the snapshot."""

        async def state(store: Store) -> tuple[bytes, bytes]:
            digest, version = ROOT, 0
            async for commit, events in self._chains(store).history(self._prefix):
                digest, version = chained(digest, [event.key for event in events]), commit.version  # type: ignore[attr-defined]
            past = (await self._chains(store).load(self._prefix, version=version)).digest if version else ROOT
            return digest, past

        digest = chained(ROOT, self._keys)
        self._expect(state, (digest, digest))

    @rule()
    def close_and_open(self) -> None:
        async def again(store: Store) -> None:
            await store.aclose()
            await store.open()

        self._expect(again, None)

    @invariant()
    def nothing_is_in_flight(self) -> None:
        for name, store in getattr(self, "_stores", {}).items():
            assert not store._calls.count, f"{name} has calls in flight"
            assert not store._tasks, f"{name} has tasks in flight"

    def teardown(self) -> None:
        if hasattr(self, "_stores"):
            self._each(lambda store: store.aclose())
            self._folder.cleanup()


async def _landed(store: Store, commit: Commit) -> Any:
    try:
        receipt: Receipt = await store.append(commit)
    except ConflictError as conflict:
        return "conflict", conflict.winner.id if conflict.winner else None
    return receipt.version, receipt.commit_id


async def _loaded(store: Store, stream: str) -> tuple[Snapshot | None, list[Commit]]:
    snapshot, commits = await store.load(stream)
    return snapshot, [_plain(commit) for commit in commits]


async def _read(store: Store, stream: str, after: int, until: int, backward: bool) -> list[Commit]:
    return [_plain(commit) async for commit in store.read(stream, after=after, until=until, backward=backward)]


def _plain(commit: Commit) -> Commit:
    """Return the commit without its position, which only some stores set."""
    return msgspec.structs.replace(commit, position=None)


def campaign(examples: int, seed: int, endpoint: str, *, shrink: bool = True) -> Layer:
    """Run `examples` sequences of up to 40 calls. A failing sequence is shortened if `shrink` is true."""
    begun = perf_counter()
    violations: list[str] = []
    with asyncio.Runner() as loop:
        kind: Any = type(
            "Against",
            (Machine,),
            {"endpoint": endpoint, "loop": loop, "tables": loop.run(_tables(endpoint)), "examples": examples},
        )
        options = settings(
            max_examples=examples,
            stateful_step_count=40,
            deadline=None,
            database=None,
            phases=[Phase.generate, Phase.shrink] if shrink else [Phase.generate],
            suppress_health_check=[HealthCheck.too_slow, HealthCheck.data_too_large, HealthCheck.filter_too_much],
        )
        try:
            run_state_machine_as_test(hypothesis.seed(seed)(kind), settings=options)
        except AssertionError as error:
            violations.append("\n".join([str(error), *getattr(error, "__notes__", ())]))
    return Layer("model", kind.calls, 0, kind.calls, 0, 0, perf_counter() - begun, seed, violations)


async def _tables(endpoint: str) -> dict[str, str]:
    tables = {}
    for layout in LAYOUTS:
        async with store_on(endpoint, fresh_name()) as store:
            await store.create_table()
            tables[layout] = store.table.name
    return tables
