"""What is wrong with the table of a store, and what to do about it. Nothing is written."""

from __future__ import annotations

import time
from collections.abc import AsyncGenerator, Awaitable, Callable, Collection, Iterator, Mapping
from functools import partial
from typing import Any, Literal, NamedTuple

from ...errors import StoreRejected
from ...usage import Usage
from .description import TRACES
from .examination import Examined, ask, examine
from .feed.table_feed import send_read
from .rights import SIDES, STREAM_PLACE, TRACES_PLACE
from .store import DynamoDBStore
from .wire.client import Client, ServiceError
from .wire.outcomes import CONDITION_FAILED

Level = Literal["ok", "warning", "wrong", "untested"]

CLOCK_BOUND = 1.0
"""Seconds by which the two clocks may differ without a warning."""

_DENIED = ("AccessDeniedException", "AccessDenied")
_ALLOW = "allow it, if this program needs it: `eventsrc table policy` prints the policy"
_PROBE = "eventsrc-doctor"  # a stream, of which no item is ever written


Probes = dict[tuple[str, str], Callable[[], Awaitable[object]]]
"""Requests by the action, and the part of the table, that they need a right for."""


class Finding(NamedTuple):
    """One thing that was checked, how it is, and what to do. `advice` is empty if nothing is to be done."""

    subject: str
    level: Level
    text: str
    advice: str = ""


async def diagnose(store: DynamoDBStore, sides: Collection[str] = ()) -> AsyncGenerator[Finding]:
    """Yield what is found out about the table of an open store.

    `sides` are those of rights.SIDES that the credentials should have rights for; by default, to write, to read, to
    use the index of traces if there is one, and to create the table.

    It reads a few units, and sends one put whose condition cannot be met, to find out whether puts are allowed.

    Raises StoreError if the service cannot be reached.
    """
    try:
        found = await examine(store)
    except StoreRejected as error:
        if error.code not in _DENIED:
            raise
        yield Finding("settings", "untested", "the table cannot be described", "it needs dynamodb:DescribeTable")
        found = None
    else:
        if found is None:
            advice = "create it: `eventsrc table create`, or the template of `eventsrc table cloudformation`"
            yield Finding("table", "wrong", f"there is no table {store.table.name}", advice)
            return
        for finding in _check_settings(store, found):
            yield finding
    yield await _check_clock(store)
    has_index = found is not None and found.description.traces is not None
    usual = ("write", "read", *(["traces"] if has_index else []), "create")
    async for finding in _check_rights(store, found, sides or usual):
        yield finding


def _check_settings(store: DynamoDBStore, found: Examined) -> Iterator[Finding]:
    description, keys = found.description, store.table.keys
    usable = description.TableStatus in ("ACTIVE", "UPDATING")
    advice = "" if usable else "wait until it is created, or restore access to it"
    yield Finding("status", "ok" if usable else "wrong", description.TableStatus, advice)
    has_keys = list(description.keys.items()) == list(keys.items())
    advice = "" if has_keys else f"use another table, or the names of its keys; the store needs {_show(keys)}"
    yield Finding("keys", "ok" if has_keys else "wrong", _show(description.keys), advice)
    yield _check_stream(description.StreamSpecification.StreamEnabled, found)
    yield _check_index(found, store.items.trace_keys)
    yield _check_recovery(found)
    yield _check_expiring(found)
    if description.DeletionProtectionEnabled:
        yield Finding("deletion protection", "ok", "on")
    else:
        yield Finding(
            "deletion protection",
            "warning",
            "off",
            "turn it on by UpdateTable or in the console, so that nobody deletes the table by mistake",
        )
    if description.Replicas:
        regions = ", ".join(str(each.get("RegionName", "?")) for each in description.Replicas)
        advice = "write each stream in one region only: the condition of a put holds within a region"
        yield Finding("replicas", "warning", regions, advice)


def _check_stream(is_on: bool, found: Examined) -> Finding:
    settings = found.description.StreamSpecification
    if not is_on:
        advice = "turn it on if processors or feeds read the table: `eventsrc table create --stream`"
        return Finding("stream", "warning", "off", advice)
    if settings.has_new_images:
        return Finding("stream", "ok", settings.StreamViewType)
    return Finding("stream", "wrong", settings.StreamViewType, "turn it off, and on again with view type NEW_IMAGE")


def _check_index(found: Examined, keys: Mapping[str, str]) -> Finding:
    subject, index = "index of traces", found.description.traces
    if index is None:
        advice = "look-ups of traces scan the table; `eventsrc table create --traces` makes the index"
        return Finding(subject, "warning", "none", advice)
    if not index.is_of(keys):
        advice = f"delete this index; the store needs one with the keys {_show(keys)}, and all attributes"
        return Finding(subject, "wrong", "an index of its name has other keys or lacks attributes", advice)
    if index.IndexStatus == "ACTIVE":
        return Finding(subject, "ok", index.IndexStatus)
    return Finding(subject, "warning", index.IndexStatus, "look-ups of traces scan the table until it is filled")


def _check_recovery(found: Examined) -> Finding:
    subject = "point-in-time recovery"
    if found.recovers is None:
        return Finding(
            subject,
            "untested",
            "cannot be read",
            "it needs dynamodb:DescribeContinuousBackups, and a server that has backups",
        )
    if found.recovers:
        return Finding(subject, "ok", "on")
    return Finding(subject, "warning", "off", "turn it on: `eventsrc table create --point-in-time-recovery`")


def _check_expiring(found: Examined) -> Finding:
    subject = "time to live"
    if found.expiring is None:
        return Finding(subject, "untested", "cannot be read", "it needs dynamodb:DescribeTimeToLive")
    if not found.expiring:
        return Finding(subject, "ok", "off")
    return Finding(
        subject, "wrong", f"deletes items by {found.expiring}", "turn it off: a stream with a gap is corrupt"
    )


async def _check_clock(store: DynamoDBStore) -> Finding:
    before = time.time()
    try:
        service = await store.clock() / 1e6  # rounded down to a second
    except StoreRejected as error:
        return Finding("clock", "untested", str(error))
    after = time.time()
    ahead, late = before - (service + 1), service - after
    if max(ahead, late) <= CLOCK_BOUND:
        return Finding("clock", "ok", "that of the service, within seconds")
    text = f"at least {max(ahead, late):,.0f} s {'fast' if ahead > late else 'slow'}, compared with the service's"
    return Finding("clock", "warning", text, "synchronise this machine's clock: commits are stored with its time")


async def _check_rights(
    store: DynamoDBStore, found: Examined | None, sides: Collection[str]
) -> AsyncGenerator[Finding]:
    arn = found.description.LatestStreamArn if found is not None else ""
    probes = _make_probes(store) | _Streaming(store, arn).make_probes()
    asked = dict.fromkeys(
        (action, grant.place) for side in sides for grant in SIDES[side] for action in grant.actions
    )  # each once, in this order
    for action, place in asked:
        subject = f"right dynamodb:{action}{' of the index' if place == TRACES_PLACE else ''}"
        probe = probes.get((action, place))
        if probe is None:
            text = "cannot be tested without a change; compare with `eventsrc table policy --side create`"
            yield Finding(subject, "untested", text)
        else:
            yield await _probe(subject, probe)


def _make_probes(store: DynamoDBStore) -> Probes:
    """Return a request for each action on the table and its index that can be tested without a change."""
    table, items = store.table, store.items
    name = {"TableName": table.name}
    query = {
        **name,
        "KeyConditionExpression": "#pk = :pk",
        "ExpressionAttributeNames": {"#pk": items.partition_key},
        "ExpressionAttributeValues": {":pk": items.partition(_PROBE)},
        "Limit": 1,
    }
    put = {
        **name,
        "Item": items.key(_PROBE, 1),
        "ConditionExpression": "attribute_exists(#pk) AND attribute_not_exists(#pk)",  # of no item
        "ExpressionAttributeNames": {"#pk": items.partition_key},
    }
    index = {
        **query,
        "IndexName": TRACES,
        "ExpressionAttributeNames": {"#pk": next(iter(items.trace_keys))},
        "ExpressionAttributeValues": {":pk": {"S": _PROBE}},
    }
    check = {
        **name,
        "Key": items.key(_PROBE, 1),
        "ConditionExpression": "attribute_not_exists(#pk)",
        "ExpressionAttributeNames": {"#pk": items.partition_key},
    }
    send = partial(ask, store, kind=dict[str, Any])
    return {
        ("PutItem", ""): partial(send, "PutItem", put),
        ("ConditionCheckItem", ""): partial(send, "TransactWriteItems", {"TransactItems": [{"ConditionCheck": check}]}),
        ("GetItem", ""): partial(send, "GetItem", {**name, "Key": items.key(_PROBE, 1)}),
        ("Query", ""): partial(send, "Query", query),
        ("Scan", ""): partial(send, "Scan", {**name, "Limit": 1}),
        ("DescribeTable", ""): partial(send, "DescribeTable", name),
        ("DescribeContinuousBackups", ""): partial(send, "DescribeContinuousBackups", name),
        ("DescribeTimeToLive", ""): partial(send, "DescribeTimeToLive", name),
        ("Query", TRACES_PLACE): partial(send, "Query", index),
    }


class _Untested(Exception):
    """A request could not be made; the text says why."""


class _Streaming:
    """Requests to the stream of a table, each of which needs the response to the one before."""

    def __init__(self, store: DynamoDBStore, arn: str) -> None:
        self._store, self._arn = store, arn
        self._client: Client | None = None
        self._shard = self._iterator = ""

    def make_probes(self) -> Probes:
        steps = {"DescribeStream": self._describe, "GetShardIterator": self._get_iterator, "GetRecords": self._read}
        return {(action, STREAM_PLACE): step for action, step in steps.items()}

    async def _describe(self) -> None:
        if not self._arn:
            raise _Untested("the table has no stream")
        found = await self._send("DescribeStream", {"StreamArn": self._arn, "Limit": 1})
        shards = found["StreamDescription"]["Shards"]
        self._shard = shards[0]["ShardId"] if shards else ""

    async def _get_iterator(self) -> None:
        if not self._shard:
            raise _Untested("no shard of the stream is known")
        request = {"StreamArn": self._arn, "ShardId": self._shard, "ShardIteratorType": "LATEST"}
        self._iterator = (await self._send("GetShardIterator", request))["ShardIterator"]

    async def _read(self) -> None:
        if not self._iterator:
            raise _Untested("no shard iterator of the stream is known")
        await self._send("GetRecords", {"ShardIterator": self._iterator, "Limit": 1})

    async def _send(self, operation: str, request: dict[str, Any]) -> dict[str, Any]:
        table, used = self._store.table, Usage(calls=1)
        with table.guard(used):
            if self._client is None:
                self._client = await table.connection.open_streams()
            return await send_read(self._client, operation, request, dict[str, Any], table.connection.limits, used)


async def _probe(subject: str, probe: Callable[[], Awaitable[object]]) -> Finding:
    try:
        await probe()
    except ServiceError as error:
        if error.code in _DENIED:
            return Finding(subject, "wrong", "not allowed", _ALLOW)
        if error.code != CONDITION_FAILED:
            return Finding(subject, "untested", f"the service answered {error.code or error.status}")
    except (_Untested, StoreRejected) as error:
        return Finding(subject, "untested", str(error))
    return Finding(subject, "ok", "allowed")


def _show(keys: Mapping[str, str]) -> str:
    return ", ".join(f"{name} ({kind})" for name, kind in keys.items())
