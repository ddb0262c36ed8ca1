"""The checker compares the outcomes that callers saw with what is stored. It is linear in the number of operations.

Streams are totally ordered, so the checker does not search: it compares each operation with its place in the log.
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
    """One call: its addition, its times and its outcome. A call without an answer has the outcome `unknown`."""

    kind: Literal["append", "save", "load", "past"]
    stream: str
    key: str = ""  # its addition: the commit id of an append, the key of the link of a save
    invoked: int
    returned: int = 0  # 0: did not return
    outcome: Outcome = "unknown"
    version: int | None = None  # that it wrote or loaded; of a conflict the version that was taken
    digest: bytes | None = None  # of the state that the caller saw
    winner: str = ""  # of a conflict, the id of the commit with that version
    error: str = ""  # an error that is not of the library


class Seen(NamedTuple):
    """A snapshot that a load read from the store."""

    invoked: int
    returned: int
    snapshot: Snapshot


class Stored(NamedTuple):
    """A commit of the log, with its keys and its digest."""

    commit: Commit
    keys: list[str]
    digest: bytes  # of the chain that ends with it


class Findings(NamedTuple):
    """The result of the checker. All fields except the first two must be zero or empty."""

    operations: int
    acknowledged: int
    lost: int
    duplicated: int
    violations: list[str]


class History:
    """Record operations and issued commits. `check` compares them with the logs."""

    def __init__(self, clock: Callable[[], int] = monotonic_ns) -> None:
        self.now = clock
        self.operations: list[Operation] = []
        self.issued: dict[bytes, Commit] = {}
        self.seen: dict[str, list[Seen]] = defaultdict(list)
        self.disturbed: set[str] = set()  # streams whose snapshots are tampered with and may go back

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
        """Record the appends to this store, their outcomes, and the snapshots that it returns."""
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
        """Record the outcome that the caller saw. A caller that was cancelled or killed saw none."""
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
        """Compare all operations with the complete logs of all streams, read after all writes have settled."""
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
        # A save is one operation, although it appends: appends count only in histories without saves.
        calls = [op for op in self.operations if op.kind != "append"] or self.operations
        acknowledged = sum(op.kind in ("append", "save") and op.outcome in ("ok", "duplicate") for op in calls)
        return Findings(len(calls), acknowledged, lost, duplicated, violations)


class Caller:
    """The recorded calls of one client. Errors of the library pass through."""

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
        """Load the state at a version, which may be newer than the stream."""
        async with self._recorded("past", id) as operation:
            chain = await self._chains.load(id, version=version)
            self._history.end(operation, "ok", chain.version, chain.digest)

    async def read(self, id: str) -> None:
        """Read the whole history and fold it here, recorded as a load."""
        async with self._recorded("load", id) as operation:
            version, digest = 0, ROOT
            async for commit, events in self._chains.history(id):
                version, digest = commit.version, chained(digest, [e.key for e in events if isinstance(e, Linked)])
            self._history.end(operation, "ok", version, digest)

    async def save(self, chain: Chain, *keys: str, command_id: str | None = None) -> Receipt:
        """Save an object. `keys` are its links that are not known to be saved; each of them is an operation."""
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
                digest = (await self._chains.execute(id, Chain.link, key, padding, command_id=command_id)).result
            self._history.end(operation, "duplicate" if digest is None else "ok", None, digest)

    async def look(self, id: str) -> None:
        """Execute a command that records nothing. It must not decide on a state older than was known when it began."""
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
        self._placed: dict[str, list[int]] = defaultdict(list)  # versions by commit id or key

    def _wrong(self, what: str) -> None:
        self.violations.append(f"{self.stream}: {what}")

    def log(self) -> None:
        """Check the log by itself.

        - Versions run from 1 without a gap, and times do not go back.
        - Each commit was issued, byte for byte.
        - Each command id has one commit.
        """
        digest, time = ROOT, 0
        commands: Counter[str] = Counter()
        for expected, commit in enumerate(self._log, 1):
            if commit.version != expected:
                self._wrong(f"version {commit.version} is stored where {expected} is expected")
                return
            if commit.time < time:
                self._wrong(f"the time of {commit.version} is before the time of the version before it")
            time = commit.time
            issued = self._issued.get(commit.id)
            if issued is None or msgspec.structs.replace(commit, position=None) != issued:
                self._wrong(f"the commit stored at {commit.version} was not issued")
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
        """Check that acknowledged commits are stored once, at their version, and definite failures are not."""
        told = [operation for operation in told if operation.kind in ("append", "save")]
        may_be_there = {op.key for op in told if op.outcome in ("ok", "duplicate", "unknown")}
        for key, versions in self._placed.items():
            if len(versions) > 1:
                self.duplicated += 1
                self._wrong(f"{key} is stored {len(versions)} times, at {versions}")
        for operation in told:
            versions = self._placed.get(operation.key, [])
            if operation.outcome in ("ok", "duplicate"):
                if not versions:
                    self.lost += 1
                    self._wrong(f"{operation.key} was acknowledged and is not stored")
                elif operation.version not in (None, *versions):
                    self._wrong(f"{operation.key} is at {versions}, and was acknowledged at {operation.version}")
                elif operation.digest not in (None, *(self._stored[version - 1].digest for version in versions)):
                    self._wrong(f"{operation.key} returned a state that is not the state at {versions}")
            elif operation.outcome in ("conflict", "failed", "refused"):
                if versions and operation.key not in may_be_there:
                    self._wrong(f"{operation.key} is at {versions}, but was reported as {operation.outcome}")
                if operation.outcome == "conflict":
                    self._conflict(operation)

    def _conflict(self, operation: Operation) -> None:
        """Check that another caller's commit has the version of the conflict."""
        if not operation.version or operation.version > len(self._stored):
            self._wrong(f"{operation.key} conflicted at {operation.version}, where no commit is stored")
            return
        standing, keys, _ = self._stored[operation.version - 1]
        if operation.key == standing.id.hex() or operation.key in keys:
            self._wrong(f"{operation.key} conflicted with itself")
        if operation.winner and operation.winner != standing.id.hex():
            self._wrong(f"{operation.key} received a winner that is not at {operation.version}")

    def order(self, told: Iterable[Operation]) -> None:
        """Check the order of the calls.

        - A call that begins after an acknowledgement writes a later version, and loads at least that version.
        - Each load returns a prefix of the log.
        """
        moments = [(op.invoked, False, op) for op in told]
        moments += [(op.returned, True, op) for op in told if op.returned]
        moments.sort(key=lambda moment: moment[:2])
        versions: dict[bytes | None, int] = {stored.digest: stored.commit.version for stored in self._stored}
        versions[ROOT] = 0
        known = 0  # newest version that an acknowledgement or a load has shown
        floors: dict[int | str, int] = {}  # `known` when a load began, or when a key was first issued
        for _, returned, op in moments:
            if op.error and returned:
                self._wrong(f"a {op.kind} ended with {op.error}")
            if not returned:
                floors.setdefault(op.key or id(op), known)
            elif op.outcome == "ok" and op.kind in ("load", "past"):
                version = versions.get(op.digest, -1)
                if version < 0 or op.version not in (None, version):
                    self._wrong(f"a load of version {op.version} is not a prefix of the log")
                elif version < floors[id(op)] and op.kind == "load":
                    self._wrong(f"a load returned {version}, but {floors[id(op)]} was known before it began")
                known = max(known, version)
            elif op.outcome == "ok" and op.key in self._placed:
                version = self._placed[op.key][0]
                if version <= floors[op.key]:
                    self._wrong(f"{op.key} was written at {version}, but {floors[op.key]} was known before it began")
                known = max(known, version)

    def snapshots(self, seen: Sequence[Seen]) -> None:
        """Check that each snapshot is the fold of its prefix and that no older snapshot follows it."""
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
            except CorruptPayload:  # another shape, or damaged on purpose: loads ignore it
                continue
            if version > len(self._stored) or state.digest != self._stored[version - 1].digest:
                self._wrong(f"the snapshot of {version} is not the fold of the log up to this version")


_declaration = declaration_of(Chain)
_codec = Codec(_declaration.handlers, _declaration.upcasters)
_snapshots = SnapshotCodec(Chain)


def ticking() -> Callable[[], int]:
    """Return a clock for histories inside one process. It never returns the same value twice."""
    return count(1).__next__
