"""Commits in the changes that DynamoDB tells, in any of the shapes in which they arrive.

| from | shape |
|---|---|
| DynamoDB Streams, by the SDK | records, binary values as bytes |
| AWS Lambda | `{"Records": [...]}`, binary values in base64 |
| EventBridge Pipes | the bare list of the same records |
| Kinesis Data Streams for DynamoDB | records whose data is the JSON of a change; Lambda and Pipes have it in base64 |
| an export to S3 | a line of JSON with `Item`, or with `NewImage` if it is incremental |

Sources: "Change data capture" and "DynamoDB data export" in the Amazon DynamoDB Developer Guide, "Using AWS Lambda with
Amazon DynamoDB" and "with Amazon Kinesis" in the AWS Lambda Developer Guide. What else is in a record is not looked at.
"""

from __future__ import annotations

from base64 import b64decode
from collections.abc import Iterator, Mapping
from typing import Any, NamedTuple

import msgspec

from ....errors import CorruptPayload, StoreRejected
from ....store import Commit
from ..items import Items


class ChangeRecord(NamedTuple):
    """`sequence` is the transport's number of it, which the answer to a partial failure names; an export has none."""

    commit: Commit | None  # None if it is no new commit of this tenant: a snapshot, a removal
    sequence: str = ""


def read_changes(event: object, items: Items) -> Iterator[ChangeRecord]:
    """The changes in an event, in its order.

    Raises ValueError for what has none of the shapes, StoreRejected if the stream carries no new images, and
    CorruptPayload for an item that is not of this library.
    """
    for record in _records(event):
        name, payload, sequence = _payload(record)
        item = payload.get("NewImage", payload.get("Item"))
        if item is None and name in ("INSERT", "MODIFY"):
            raise StoreRejected("StreamViewType", "the stream carries no new images; set its view type to NEW_IMAGE")
        yield ChangeRecord(_commit(item, items) if item is not None else None, sequence)


def _records(event: object) -> list[Any]:
    if isinstance(event, (bytes, str)):  # a line of an export, or the data of a Kinesis record
        event = _json(event)
    if isinstance(event, Mapping):
        event = event.get("Records", [event])
    if not isinstance(event, list) or not all(isinstance(record, Mapping) for record in event):
        raise ValueError("no records of DynamoDB, Kinesis, Lambda, Pipes or an export")
    return event


def _payload(record: Mapping[str, Any]) -> tuple[object, Mapping[str, Any], str]:
    """Which kind of change, what is told of the item, and the transport's number of it."""
    carrier = record.get("kinesis", record)
    carrier = carrier if isinstance(carrier, Mapping) else {}
    sequence = carrier.get("sequenceNumber", carrier.get("SequenceNumber"))
    if (data := carrier.get("data", carrier.get("Data"))) is not None:
        record = _json(data if isinstance(data, bytes) else _binary(data))
    payload = record.get("dynamodb", record)
    if not isinstance(payload, Mapping) or not payload.keys() & {"NewImage", "Item", "Keys"}:
        raise ValueError("a record that is no change of a DynamoDB table")
    return record.get("eventName"), payload, str(sequence or payload.get("SequenceNumber", ""))


def _commit(item: object, items: Items) -> Commit | None:
    try:
        stored = msgspec.convert(item, items.keyed)
    except msgspec.ValidationError:
        raise CorruptPayload("", 0, "an item that is not of this library") from None
    return items.to_commit_of_tenant(stored)


def _json(data: bytes | str) -> dict[str, Any]:
    try:
        return msgspec.json.decode(data, type=dict[str, Any])
    except (msgspec.MsgspecError, UnicodeError, RecursionError):
        raise ValueError("a record that is not the JSON of one") from None


def _binary(data: object) -> bytes:
    try:
        return b64decode(str(data), validate=True)
    except ValueError:
        raise ValueError("data that is not base64") from None
