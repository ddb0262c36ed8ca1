"""Tests of the checker: ways to break the library, each of which the simulation must detect."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import ExitStack, contextmanager
from typing import Any, NamedTuple
from unittest.mock import patch

import msgspec

from eventsrc import CommitOutcomeUnknown, ConflictError, DynamoDBStore, Repository
from eventsrc.aggregates.aggregate import Journal
from eventsrc.repository.snapshots import SnapshotCodec, Snapshots
from eventsrc.stores.dynamodb import store as dynamodb
from eventsrc.stores.dynamodb.wire import outcomes, sending
from eventsrc.stores.dynamodb.wire.client import TransportError
from eventsrc.stores.dynamodb.wire.responses import QueryResponse
from eventsrc.stores.dynamodb.wire.sdk import SDKClient, SDKReply
from eventsrc.stores.dynamodb.wire.signed_client import SignedClient
from eventsrc.stores.settle import settle
from eventsrc.usage import Usage

from .progress import report
from .simulation import simulate

Patch = tuple[Any, str, Any]


class Verdict(NamedTuple):
    """How soon a mutant was detected. `seeds` is None if it was not detected, and 0 if a unit test fails with it."""

    name: str
    seeds: int | None
    violation: str


def _requests(change: Callable[[str, dict[str, Any]], None]) -> list[Patch]:
    """Return patches that change each request before it is sent."""

    def mutant(call: Any) -> Any:
        async def changing(self: Any, operation: str, request: Mapping[str, Any]) -> Any:
            changed = dict(request)
            change(operation, changed)
            return await call(self, operation, changed)

        return changing

    return [(client, "call", mutant(client.call)) for client in (SDKClient, SignedClient)]


def no_condition() -> list[Patch]:
    """A put has no condition, so it can overwrite a commit."""

    def change(_: str, request: dict[str, Any]) -> None:
        if request.get("ConditionExpression") == "attribute_not_exists(#pk)":
            for name in ("ConditionExpression", "ExpressionAttributeNames", "ReturnValuesOnConditionCheckFailure"):
                del request[name]

    return _requests(change)


def own_commit_taken_for_a_conflict() -> list[Patch]:
    """The stored commit counts as another writer's, whatever its id."""

    def mutant(commit: Any, standing: Any, used: Any) -> Any:
        if standing is commit:
            return settle(commit, standing, used)
        raise ConflictError(commit.stream, commit.version - 1, standing.version, standing)

    return [(dynamodb, "settle", mutant)]


def new_id_on_a_retry() -> list[Patch]:
    """The next save uses a new commit id, although the outcome of the last save is unknown."""
    save = Repository._save

    async def mutant(self: Any, aggregate: Any, *rest: Any) -> Any:
        aggregate._journal.draft = None
        return await save(self, aggregate, *rest)

    return [(Repository, "_save", mutant)]


def transient_error_reported_as_failed() -> list[Patch]:
    """A broken connection counts as a definite failure."""
    is_definite = outcomes.is_definite

    def mutant(error: Exception) -> bool:
        return isinstance(error, TransportError) or is_definite(error)

    return [(module, "is_definite", mutant) for module in (outcomes, sending)]


def unconditional_snapshot() -> list[Patch]:
    """An older snapshot replaces a newer one."""

    def change(_: str, request: dict[str, Any]) -> None:
        if "#v" in request.get("ConditionExpression", ""):
            for name in ("ConditionExpression", "ExpressionAttributeNames", "ExpressionAttributeValues"):
                del request[name]

    return _requests(change)


def stale_reads() -> list[Patch]:
    """Decisions are made on eventually consistent reads."""

    def change(operation: str, request: dict[str, Any]) -> None:
        if operation in ("Query", "GetItem"):
            request["ConsistentRead"] = False

    return _requests(change)


def one_page_only() -> list[Patch]:
    """A query ends after its first page."""

    def mutant(self: SDKReply, kind: Any) -> Any:
        answer = read(self, kind)
        if isinstance(answer, QueryResponse):
            answer.LastEvaluatedKey = None
        return answer

    read = SDKReply.read
    return [(SDKReply, "read", mutant)]


def snapshot_off_by_one() -> list[Patch]:
    """A snapshot carries the version before its own."""
    encode = SnapshotCodec.encode

    def mutant(self: SnapshotCodec[Any], aggregate: Any) -> Any:
        snapshot = encode(self, aggregate)
        return msgspec.structs.replace(snapshot, version=max(1, snapshot.version - 1))

    return [(SnapshotCodec, "encode", mutant)]


def snapshot_not_bound_to_its_commit() -> list[Patch]:
    """A snapshot carries the version before its own, and its commit id is not compared."""
    [(_, _, encode)] = snapshot_off_by_one()
    decode = SnapshotCodec.decode

    def mutant(self: Any, id: str, snapshot: Any, commits: Any) -> Any:
        codec = self._codec
        first = commits[0].id if commits else b""
        with patch.object(SnapshotCodec, "decode", lambda _, each: (first, *decode(codec, each)[1:])):
            return restore(self, id, snapshot, commits)

    restore = Snapshots.restore
    return [(SnapshotCodec, "encode", encode), (Snapshots, "restore", mutant)]


def no_command_ids() -> list[Patch]:
    """A redelivered command counts as new."""
    return [(Journal, "remember", lambda self, commit, limit: None)]


def command_ids_in_the_tail_only() -> list[Patch]:
    """Command ids in the snapshot are forgotten."""
    decode = SnapshotCodec.decode

    def mutant(self: SnapshotCodec[Any], snapshot: Any) -> Any:
        commit_id, _, state = decode(self, snapshot)
        return commit_id, {}, state

    return [(SnapshotCodec, "decode", mutant)]


def uncommitted_cleared_before_the_write() -> list[Patch]:
    """A failed save loses its events."""
    append = Repository._append

    async def mutant(self: Any, aggregate: Any, draft: Any) -> Any:
        journal = aggregate._journal
        journal.uncommitted = []
        return await append(self, aggregate, draft)

    return [(Repository, "_append", mutant)]


def unknown_forgotten_after_a_throttle() -> list[Patch]:
    """A throttled last try turns an unknown outcome into a definite failure."""
    deadline_passed = outcomes.DeadlinePassed

    class Mutant(deadline_passed):  # type: ignore[misc, valid-type]
        def __init__(self, ambiguous: bool, last: Exception | None) -> None:
            super().__init__(ambiguous and not (last is not None and outcomes.is_throttle(last)), last)

    return [(sending, "DeadlinePassed", Mutant)]


def unknown_forgotten_by_the_repository() -> list[Patch]:
    """A definite failure of the second save counts as a failure of the first."""
    append = Repository._append

    async def mutant(self: Any, aggregate: Any, draft: Any) -> Any:
        aggregate._journal.ambiguous = False
        return await append(self, aggregate, draft)

    return [(Repository, "_append", mutant)]


def a_failed_decision_is_saved() -> list[Patch]:
    """After a conflict the same object is saved again, one version later, although its decision is outdated."""

    async def mutant(self: Any, aggregate: Any, draft: Any) -> Any:
        try:
            return await append(self, aggregate, draft)
        except ConflictError as conflict:
            aggregate._journal.version = conflict.actual
            aggregate._journal.draft = None
            raise

    append = Repository._append
    return [(Repository, "_append", mutant)]


def duplicates_are_answered_without_looking() -> list[Patch]:
    """An unknown outcome is reported as a success."""

    async def mutant(self: DynamoDBStore, commit: Any) -> Any:
        try:
            return await append(self, commit)
        except CommitOutcomeUnknown:
            return settle(commit, commit, Usage())

    append = DynamoDBStore.append
    return [(DynamoDBStore, "append", mutant)]


MUTANTS: Sequence[Callable[[], list[Patch]]] = (
    no_condition,
    own_commit_taken_for_a_conflict,
    new_id_on_a_retry,
    transient_error_reported_as_failed,
    unconditional_snapshot,
    stale_reads,
    one_page_only,
    snapshot_not_bound_to_its_commit,
    no_command_ids,
    command_ids_in_the_tail_only,
    uncommitted_cleared_before_the_write,
    unknown_forgotten_after_a_throttle,
    unknown_forgotten_by_the_repository,
    a_failed_decision_is_saved,
    duplicates_are_answered_without_looking,
)


@contextmanager
def broken(mutant: Callable[[], list[Patch]]) -> Iterator[None]:
    """Break the library with this mutant while the context lasts."""
    with ExitStack() as stack:
        for target, name, replacement in mutant():
            stack.enter_context(patch.object(target, name, replacement))
        yield


def hunt(mutant: Callable[[], list[Patch]], seeds: Sequence[int]) -> Verdict:
    """Return the first of these seeds in which the simulation detects the mutant."""
    with broken(mutant):
        for tried, seed in enumerate(seeds, 1):
            report(tried, len(seeds))
            if violations := simulate(seed).findings.violations:
                return Verdict(mutant.__name__, tried, f"seed {seed}: {violations[0]}")
    return Verdict(mutant.__name__, None, "")
