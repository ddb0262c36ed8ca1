"""The checker: what callers were told, against what is stored. Linear in the number of operations.

Streams are totally ordered, so nothing has to be searched: each operation is held against its place in the log.
"""

from __future__ import annotations

import asyncio
from collections import Counter, defaultdict
from collections.abc import AsyncIterator, Callable, Iterable, Mapping, Sequence
from contextlib import AsyncExitStack, asynccontextmanager
from itertools import count
from time import monotonic_ns
from typing import Any, Literal, NamedTuple

import msgspec

from eventsrc import (
    AggregateNotFound,
    Commit,
    CommitOutcomeUnknown,
    ConflictError,
    CorruptPayload,
    EventsrcError,
    Loaded,
    Receipt,
    Repository,
    Snapshot,
    Store,
)
from eventsrc.aggregates.codec import Codec
from eventsrc.aggregates.declaration import declaration_of
from eventsrc.repository.snapshots import SnapshotCodec

from .chain import ROOT, Chain, Linked, Refused, chained

Outcome = Literal["ok", "duplicate", "conflict", "failed", "unknown", "refused"]


class Operation(msgspec.Struct, kw_only=True):
    """One call: what it was to add, when, and what its caller was told. Who was told nothing has `unknown`."""

    kind: Literal["append", "save", "load", "past"]
    stream: str
    key: str = ""  # what it adds: of an append the commit id, of a save the key of its link
    invoked: int
    returned: int = 0  # 0 is never
    outcome: Outcome = "unknown"
    version: int | None = None  # where it landed, or what was loaded; of a conflict the place that was taken
    digest: bytes | None = None  # of the state that was seen
    winner: str = ""  # of a conflict, the id of the commit that stands there
    error: str = ""  # that is none of the library's


class Seen(NamedTuple):
    """The snapshot that a load got from the store."""

    invoked: int
    returned: int
    snapshot: Snapshot


class Stored(NamedTuple):
    """A commit of the log, as the checker sees it."""

    commit: Commit
    keys: list[str]
    digest: bytes  # of the chain that ends with it


class Findings(NamedTuple):
    """What the checker found. All of it must be zero or empty, the first two aside."""

    operations: int
    acknowledged: int
    lost: int
    duplicated: int
    violations: list[str]


class History:
    """Records operations and what was issued; `check` holds them against the logs."""

    def __init__(self, clock: Callable[[], int] = monotonic_ns) -> None:
        self.now = clock
        self.operations: list[Operation] = []
        self.issued: dict[bytes, Commit] = {}
        self.seen: dict[str, list[Seen]] = defaultdict(list)
        self.disturbed: set[str] = set()  # streams whose snapshots somebody tampers with: they may go back

    def begin(self, kind: Any, stream: str, key: str = "") -> Operation:
        operation = Operation(kind=kind, stream=stream, key=key, invoked=self.now())
        self.operations.append(operation)
        return operation

    def end(
        self, operation: Operation, outcome: Outcome, version: int | None = None, digest: bytes | None = None
    ) -> None:
        operation.returned, operation.outcome = self.now(), outcome
        operation.version, operation.digest = version, digest

    def watch(self, store: Store) -> None:
        """Record what this store is asked to append, what it answers, and the snapshots it gives."""
        append, load = store.append, store.load

        async def watched_append(commit: Commit) -> Receipt:
            self.issued.setdefault(commit.id, commit)
            operation = self.begin("append", commit.stream, commit.id.hex())
            try:
                receipt = await append(commit)
            except BaseException as error:
                self._failed(operation, error)
                raise
            self.end(operation, "ok", receipt.version)
            return receipt

        async def watched_load(stream: str) -> Loaded:
            invoked = self.now()
            loaded = await load(stream)
            if loaded.snapshot:
                self.seen[stream].append(Seen(invoked, self.now(), loaded.snapshot))
            return loaded

        store.append = watched_append  # type: ignore[method-assign]
        store.load = watched_load  # type: ignore[method-assign]

    def _failed(self, operation: Operation, error: BaseException) -> None:
        """Note what the caller was told. Who was cancelled or killed was told nothing."""
        match error:
            case ConflictError():
                self.end(operation, "conflict", error.expected + 1)
                operation.winner = error.winner.id.hex() if error.winner else ""
            case CommitOutcomeUnknown() | asyncio.CancelledError():
                self.end(operation, "unknown")
            case EventsrcError():
                self.end(operation, "failed")
            case Refused():
                self.end(operation, "refused")
            case _:
                self.end(operation, "failed")
                operation.error = repr(error)

    def caller(self, chains: Repository[Chain]) -> Caller:
        return Caller(self, chains)

    def check(self, logs: Mapping[str, Sequence[Commit]]) -> Findings:
        """Hold all operations against the complete logs of all streams, read after everything has settled."""
        told: dict[str, list[Operation]] = defaultdict(list)
        for operation in self.operations:
            told[operation.stream].append(operation)
        violations: list[str] = []
        lost = duplicated = 0
        ids = Counter(commit.id for log in logs.values() for commit in log)
        violations += [f"commit id {id.hex()} is stored {n} times" for id, n in ids.items() if n > 1]
        for stream in told.keys() | logs.keys():
            check = _Check(stream, logs.get(stream, ()), self.issued)
            check.log()
            check.outcomes(told[stream])
            check.order(told[stream])
            if stream not in self.disturbed:
                check.snapshots(self.seen[stream])
            violations += check.violations
            lost, duplicated = lost + check.lost, duplicated + check.duplicated
        # A save is one operation, though it appends: appends count only where nobody saves.
        calls = [op for op in self.operations if op.kind != "append"] or self.operations
        acknowledged = sum(op.kind in ("append", "save") and op.outcome in ("ok", "duplicate") for op in calls)
        return Findings(len(calls), acknowledged, lost, duplicated, violations)


class Caller:
    """The calls of one client, each recorded. Errors that are the library's come out as they are."""

    def __init__(self, history: History, chains: Repository[Chain]) -> None:
        self._history = history
        self._chains = chains

    async def load(self, id: str) -> Chain:
        async with self._recorded("load", id) as operation:
            try:
                chain = await self._chains.load(id)
            except AggregateNotFound:
                self._history.end(operation, "ok", 0, ROOT)
                raise
            self._history.end(operation, "ok", chain.version, chain.digest)
            return chain

    async def past(self, id: str, version: int) -> None:
        """The state at a version, which may be newer than the stream is."""
        async with self._recorded("past", id) as operation:
            chain = await self._chains.load(id, version=version)
            self._history.end(operation, "ok", chain.version, chain.digest)

    async def read(self, id: str) -> None:
        """The whole history, as a load that folds it itself."""
        async with self._recorded("load", id) as operation:
            version, digest = 0, ROOT
            async for commit, events in self._chains.history(id):
                version, digest = commit.version, chained(digest, [e.key for e in events if isinstance(e, Linked)])
            self._history.end(operation, "ok", version, digest)

    async def save(self, chain: Chain, *keys: str, command_id: str | None = None) -> Receipt:
        """Save an object that has recorded these links since it was last known to be saved: each is an operation."""
        async with AsyncExitStack() as stack:
            operations = [await stack.enter_async_context(self._recorded("save", chain.id, key)) for key in keys]
            receipt = await self._chains.save(chain, command_id=command_id)
            if receipt.duplicate:
                for operation in operations:
                    self._history.end(operation, "duplicate")
            else:
                for operation in operations[:-1]:
                    self._history.end(operation, "ok")
                self._history.end(operations[-1], "ok", receipt.version, chain.digest)
            return receipt

    async def execute(self, id: str, key: str, padding: bytes = b"", command_id: str | None = None) -> None:
        async with self._recorded("save", id, key) as operation:
            digest: bytes | None
            if command_id is None:
                digest = await self._chains.execute(id, Chain.link, key, padding)
            else:
                digest = await self._chains.execute(id, Chain.link, key, padding, command_id=command_id)
            self._history.end(operation, "duplicate" if digest is None else "ok", None, digest)

    async def look(self, id: str) -> None:
        """A command that records nothing: what it decided on must not be older than what it could know."""
        async with self._recorded("load", id) as operation:
            digest = await self._chains.execute(id, Chain.look)
            self._history.end(operation, "ok", None, digest)

    @asynccontextmanager
    async def _recorded(self, kind: str, id: str, key: str = "") -> AsyncIterator[Operation]:
        operation = self._history.begin(kind, f"chain-{id}", key)
        try:
            yield operation
        except BaseException as error:
            if not operation.returned:
                self._history._failed(operation, error)
            raise


class _Check:
    """The checks of one stream."""

    def __init__(self, stream: str, log: Sequence[Commit], issued: Mapping[bytes, Commit]) -> None:
        self.stream = stream
        self.violations: list[str] = []
        self.lost = self.duplicated = 0
        self._issued = issued
        self._log = sorted(log, key=lambda commit: commit.version)
        self._stored: list[Stored] = []
        self._placed: dict[str, list[int]] = defaultdict(list)  # commit ids and keys, where they lie

    def _wrong(self, what: str) -> None:
        self.violations.append(f"{self.stream}: {what}")

    def log(self) -> None:
        """Versions run from 1 without a gap, times do not go back; each commit was issued, byte for byte; there is one
        for each command id.
        """
        digest, time = ROOT, 0
        commands: Counter[str] = Counter()
        for expected, commit in enumerate(self._log, 1):
            if commit.version != expected:
                self._wrong(f"version {commit.version} stands where {expected} should")
                return
            if commit.time < time:
                self._wrong(f"the time of {commit.version} is before that of the one before")
            time = commit.time
            issued = self._issued.get(commit.id)
            if issued is None or msgspec.structs.replace(commit, position=None) != issued:
                self._wrong(f"what is stored at {commit.version} was not issued")
                return
            keys = [e.key for e in _codec.decode(commit.payload, self.stream, commit.version) if isinstance(e, Linked)]
            digest = chained(digest, keys)
            self._stored.append(Stored(commit, keys, digest))
            for key in (commit.id.hex(), *keys):
                self._placed[key].append(commit.version)
            if commit.command_id is not None:
                commands[commit.command_id] += 1
        for command_id, times in commands.items():
            if times > 1:
                self._wrong(f"command {command_id} was applied {times} times")

    def outcomes(self, told: Iterable[Operation]) -> None:
        """What was acknowledged is there once, where it was said to be; a definite failure is not there."""
        told = [operation for operation in told if operation.kind in ("append", "save")]
        may_be_there = {op.key for op in told if op.outcome in ("ok", "duplicate", "unknown")}
        for key, versions in self._placed.items():
            if len(versions) > 1:
                self.duplicated += 1
                self._wrong(f"{key} is there {len(versions)} times, at {versions}")
        for operation in told:
            versions = self._placed.get(operation.key, [])
            if operation.outcome in ("ok", "duplicate"):
                if not versions:
                    self.lost += 1
                    self._wrong(f"{operation.key} was acknowledged and is not there")
                elif operation.version not in (None, *versions):
                    self._wrong(f"{operation.key} is at {versions}, not at {operation.version} as was said")
                elif operation.digest not in (None, *(self._stored[version - 1].digest for version in versions)):
                    self._wrong(f"{operation.key} returned what was not the state at {versions}")
            elif operation.outcome in ("conflict", "failed", "refused"):
                if versions and operation.key not in may_be_there:
                    self._wrong(f"{operation.key} is at {versions}, but was said to have failed ({operation.outcome})")
                if operation.outcome == "conflict":
                    self._conflict(operation)

    def _conflict(self, operation: Operation) -> None:
        """Somebody else's commit must stand where the conflict was said to be."""
        if not operation.version or operation.version > len(self._stored):
            self._wrong(f"{operation.key} conflicted at {operation.version}, where nothing is")
            return
        standing, keys, _ = self._stored[operation.version - 1]
        if operation.key == standing.id.hex() or operation.key in keys:
            self._wrong(f"{operation.key} conflicted with itself")
        if operation.winner and operation.winner != standing.id.hex():
            self._wrong(f"{operation.key} was told a winner that is not at {operation.version}")

    def order(self, told: Iterable[Operation]) -> None:
        """Who begins after an acknowledgement lands behind it, and loads no less; each load is a prefix of the log."""
        moments = [(op.invoked, False, op) for op in told]
        moments += [(op.returned, True, op) for op in told if op.returned]
        moments.sort(key=lambda moment: moment[:2])
        versions: dict[bytes | None, int] = {stored.digest: stored.commit.version for stored in self._stored}
        versions[ROOT] = 0
        known = 0  # to be there, by an acknowledgement or a load
        floors: dict[int | str, int] = {}  # what was known when a load began, or when a key was first issued
        for _, returned, op in moments:
            if op.error and returned:
                self._wrong(f"a {op.kind} ended with {op.error}")
            if not returned:
                floors.setdefault(op.key or id(op), known)
            elif op.outcome == "ok" and op.kind in ("load", "past"):
                version = versions.get(op.digest, -1)
                if version < 0 or op.version not in (None, version):
                    self._wrong(f"a load of version {op.version} is no prefix of the log")
                elif version < floors[id(op)] and op.kind == "load":
                    self._wrong(f"a load saw {version}, when {floors[id(op)]} was known before it began")
                known = max(known, version)
            elif op.outcome == "ok" and op.key in self._placed:
                version = self._placed[op.key][0]
                if version <= floors[op.key]:
                    self._wrong(f"{op.key} landed at {version}, when {floors[op.key]} was known before it began")
                known = max(known, version)

    def snapshots(self, seen: Sequence[Seen]) -> None:
        """Each is the fold of its prefix, and none is followed by an older one."""
        moments = [(each.invoked, False, each) for each in seen] + [(each.returned, True, each) for each in seen]
        moments.sort(key=lambda moment: moment[:2])
        newest = 0
        floors: dict[int, int] = {}
        for _, returned, each in moments:
            version = each.snapshot.version
            if not returned:
                floors[id(each)] = newest
                continue
            if version < floors[id(each)]:
                self._wrong(f"a snapshot of {version} was seen after one of {floors[id(each)]}")
            newest = max(newest, version)
            try:
                *_, state = _snapshots.decode(each.snapshot)
            except CorruptPayload:  # another shape, or put there damaged: whoever loads ignores it
                continue
            if version > len(self._stored) or state.digest != self._stored[version - 1].digest:
                self._wrong(f"the snapshot of {version} is not the fold of the log up to there")


_declaration = declaration_of(Chain)
_codec = Codec(_declaration.handlers, _declaration.upcasters)
_snapshots = SnapshotCodec(_declaration.snapshot_type, Chain.snapshot_version)


def ticking() -> Callable[[], int]:
    """A clock for histories inside one process: no two moments are the same."""
    return count(1).__next__
