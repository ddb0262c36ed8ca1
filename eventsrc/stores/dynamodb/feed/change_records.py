"""Reading commits from DynamoDB's change records, in each of the forms in which they are delivered.

| from | form |
|---|---|
| DynamoDB Streams, by the SDK | records, binary values as bytes |
| AWS Lambda | `{"Records": [...]}`, binary values in base64 |
| EventBridge Pipes | the bare list of the same records |
| Kinesis Data Streams for DynamoDB | records with the JSON of a change as data; from Lambda and Pipes in base64 |
| an export to S3 | a line of JSON with `Item`, or with `NewImage` if the export is incremental |

Sources: "Change data capture" and "DynamoDB data export" in the Amazon DynamoDB Developer Guide, "Using AWS Lambda with
Amazon DynamoDB" and "with Amazon Kinesis" in the AWS Lambda Developer Guide. Other
fields of a record are ignored.
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
    """A change of an item. `sequence` is the transport's number of the record, which a response that reports partial
    failures must name. It is empty for an export.
    """

    commit: Commit | None  # None if the change is not a new commit of this tenant, but for example a snapshot
    sequence: str = ""


def read_changes(event: object, items: Items, table: str = "") -> Iterator[ChangeRecord]:
    """Iterate over the changes in an event, in its order.

    Raises:
        ValueError: the event has none of the forms.
        StoreRejected: the stream carries no new images, or a record names another table than `table`, which is a name
            or an ARN.
        CorruptPayload: this library did not write the item.
    """
    for record in _find_records(event):
        name, payload, sequence, source = _parse_record(record)
        if table and source and not _is_same_table(source, table):
            raise StoreRejected(
                "TABLE", f"a record is of table {source}, but the store's table is {table}; connect each to its own"
            )
        item = payload.get("NewImage", payload.get("Item"))
        if item is None and name in ("INSERT", "MODIFY"):
            raise StoreRejected("StreamViewType", "the stream carries no new images; set its view type to NEW_IMAGE")
        yield ChangeRecord(_to_commit(item, items) if item is not None else None, sequence)


def _find_records(event: object) -> list[Any]:
    if isinstance(event, (bytes, str)):  # a line of an export, or the data of a Kinesis record
        event = _parse_json(event)
    if isinstance(event, Mapping):
        event = event.get("Records", [event])
    if not isinstance(event, list) or not all(isinstance(record, Mapping) for record in event):
        raise ValueError("the event has no records of DynamoDB, Kinesis, Lambda, Pipes or an export")
    return event


def _parse_record(record: Mapping[str, Any]) -> tuple[object, Mapping[str, Any], str, str]:
    """Return the name of the event, the change, the transport's number of the record, and the table that it names."""
    carrier = record.get("kinesis", record)
    carrier = carrier if isinstance(carrier, Mapping) else {}
    sequence = carrier.get("sequenceNumber", carrier.get("SequenceNumber"))
    if (data := carrier.get("data", carrier.get("Data"))) is not None:
        record = _parse_json(data if isinstance(data, bytes) else _decode_base64(data))
    payload = record.get("dynamodb", record)
    if not isinstance(payload, Mapping) or not payload.keys() & {"NewImage", "Item", "Keys"}:
        raise ValueError("a record is not a change of a DynamoDB table")
    number = str(sequence or payload.get("SequenceNumber", ""))
    return record.get("eventName"), payload, number, _find_table(record)


def _find_table(record: Mapping[str, Any]) -> str:
    """Return the table that a record names: its name from Kinesis, its ARN from DynamoDB Streams; "" if it has none."""
    name, arn = record.get("tableName"), record.get("eventSourceARN")
    if name and isinstance(name, str):
        return name
    return arn.partition("/stream/")[0] if isinstance(arn, str) and ":dynamodb:" in arn else ""


def _is_same_table(one: str, other: str) -> bool:
    """Compare two tables by their ARNs, or by their names if one of them has no ARN."""
    if one.startswith("arn:") and other.startswith("arn:"):
        return one == other
    return one.rpartition("/")[2] == other.rpartition("/")[2]


def _to_commit(item: object, items: Items) -> Commit | None:
    try:
        stored = msgspec.convert(item, items.stored)
    except msgspec.ValidationError:
        raise CorruptPayload("", 0, "this library did not write the item") from None
    return items.to_commit_of_tenant(stored)


def _parse_json(data: bytes | str) -> dict[str, Any]:
    try:
        return msgspec.json.decode(data, type=dict[str, Any])
    except (msgspec.MsgspecError, UnicodeError, RecursionError):
        raise ValueError("a record is not valid JSON") from None


def _decode_base64(data: object) -> bytes:
    try:
        return b64decode(str(data), validate=True)
    except ValueError:
        raise ValueError("the data of a record is not base64") from None
