"""The forms in which change records are delivered: each of them yields the same commits."""

from __future__ import annotations

import json
from base64 import b64decode
from collections.abc import Callable
from contextlib import nullcontext, suppress
from pathlib import Path
from typing import Any

import msgspec
import pytest
from hypothesis import given
from hypothesis import strategies as st

from eventsrc import CorruptPayload, DynamoDBStore, StoreRejected
from eventsrc.stores.dynamodb.feed.change_records import ChangeRecord

SAMPLES = Path(__file__).parents[3] / "samples"
STORE = DynamoDBStore("ledger", tenant="acme")


def parsed(name: str) -> Any:
    return json.loads((SAMPLES / f"{name}.json").read_text())


def lines(name: str) -> list[ChangeRecord]:
    return [change for line in (SAMPLES / f"{name}.jsonl").read_text().splitlines() for change in STORE.changes(line)]


def by_the_sdk() -> list[ChangeRecord]:
    """Return the records of DynamoDB Streams as the SDK does, with bytes and datetimes."""
    events = parsed("pipes-dynamodb")
    for event in events:
        for name in event["dynamodb"].get("NewImage", {}).values():
            if "B" in name:
                name["B"] = b64decode(name["B"])
    return list(STORE.changes({"Records": events, "NextShardIterator": "next"}))


def of_kinesis() -> list[ChangeRecord]:
    """Return the records of Kinesis as the SDK does, which decodes the base64."""
    records = parsed("pipes-kinesis")
    raw = [{"Data": b64decode(each["data"]), "SequenceNumber": each["sequenceNumber"]} for each in records]
    return list(STORE.changes({"Records": raw, "MillisBehindLatest": 0}))


SHAPES: dict[str, Callable[[], list[ChangeRecord]]] = {
    "streams, by the SDK": by_the_sdk,
    "lambda": lambda: list(STORE.changes(parsed("lambda-dynamodb"))),
    "pipes": lambda: list(STORE.changes(parsed("pipes-dynamodb"))),
    "kinesis": of_kinesis,
    "kinesis by lambda": lambda: list(STORE.changes(parsed("lambda-kinesis"))),
    "kinesis by pipes": lambda: list(STORE.changes(parsed("pipes-kinesis"))),
    "export": lambda: lines("export-full"),
    "incremental export": lambda: lines("export-incremental"),
}


@pytest.mark.parametrize("shape", SHAPES)
def test_all_forms_have_the_same_commits(shape: str) -> None:
    """Two commits, then a snapshot, another tenant's commit, and a removal, which a full export does not have."""
    changes = SHAPES[shape]()
    first, second, *others = [change.commit for change in changes]
    assert first is not None
    assert second is not None
    assert others == [None] * (2 if shape == "export" else 3)
    for version, commit in enumerate((first, second), 1):
        assert (commit.stream, commit.version, commit.tags) == ("account-a-1", version, ("account.deposited",))
        assert msgspec.msgpack.decode(commit.payload[1:-4]) == [{"$": "account.deposited", "amount": 100 * version}]
        assert (commit.uuid.version, commit.time) == (7, 1_767_225_600_000_000 + version)
    assert (first.correlation_id, first.metadata) == (None, {})
    assert (second.correlation_id, second.metadata) == ("request-9", {"user": "ann"})
    sequences = [change.sequence for change in changes]
    if "export" in shape:
        assert set(sequences) == {""}
    else:
        assert sequences == sorted(set(sequences))
        assert all(sequences)


def test_a_store_without_a_tenant_ignores_the_commits_of_tenants() -> None:
    changes = DynamoDBStore("ledger").changes(parsed("lambda-dynamodb"))
    assert [change.commit for change in changes] == [None] * 5


def test_a_stream_without_images_is_rejected() -> None:
    event = parsed("lambda-dynamodb")
    del event["Records"][1]["dynamodb"]["NewImage"]
    with pytest.raises(StoreRejected, match="NEW_IMAGE"):
        list(STORE.changes(event))


@pytest.mark.parametrize(
    "event",
    [None, 7, {}, [7], "", b"\xff", "[]", {"Records": None}, [{"kinesis": 7}], [{"data": "%"}], [{"data": "e30="}]],
)
def test_other_forms_raise_value_error(event: object) -> None:
    with pytest.raises(ValueError, match=r"record|base64"):
        list(STORE.changes(event))


@pytest.mark.parametrize(
    "image", [7, {}, {"PK": {"S": "acme|a-1"}}, {"PK": {"N": "1"}, "SK": {"N": "1"}}, {"PK": 1, "SK": {"N": "1"}}]
)
def test_an_item_of_another_program_is_corrupt(image: object) -> None:
    with pytest.raises(CorruptPayload):
        list(STORE.changes([{"eventName": "INSERT", "dynamodb": {"Keys": {}, "NewImage": image}}]))


ANYTHING = st.recursive(
    st.none() | st.booleans() | st.integers() | st.text(max_size=8) | st.binary(max_size=8),
    lambda inner: (
        st.lists(inner, max_size=3)
        | st.dictionaries(
            st.sampled_from(["Records", "dynamodb", "NewImage", "Item", "PK", "SK", "S", "N", "B", "kinesis", "data"]),
            inner,
            max_size=4,
        )
    ),
    max_leaves=12,
)


@given(ANYTHING)
def test_any_event_is_decoded_or_refused(event: object) -> None:
    with suppress(ValueError, StoreRejected, CorruptPayload):
        list(STORE.changes(event))


@pytest.mark.parametrize("shape", ["lambda-dynamodb", "pipes-dynamodb", "lambda-kinesis", "pipes-kinesis"])
def test_records_of_another_table_are_refused(shape: str) -> None:
    """By the ARN or the name in the record; the error has both tables."""
    other = DynamoDBStore("ledger-2", tenant="acme")
    with pytest.raises(StoreRejected, match=r"of table (.*:table/)?ledger, .* table is ledger-2"):
        next(other.changes(parsed(shape)))


def test_records_of_another_table_are_refused_with_the_data_of_kinesis_alone() -> None:
    data = b64decode(parsed("pipes-kinesis")[0]["data"])
    for event in (data, {"Records": [{"Data": data, "SequenceNumber": "1"}]}):
        assert next(STORE.changes(event)).commit
        with pytest.raises(StoreRejected, match="of table ledger, but the store's table is ledger-2"):
            next(DynamoDBStore("ledger-2", tenant="acme").changes(event))


@pytest.mark.parametrize(
    ("table", "is_same"),
    [
        ("arn:aws:dynamodb:eu-west-1:111122223333:table/ledger", True),
        ("arn:aws:dynamodb:eu-west-2:111122223333:table/ledger", False),  # another region
        ("arn:aws:dynamodb:eu-west-1:999999999999:table/ledger", False),  # another account
    ],
)
def test_a_table_named_by_its_arn_is_compared_by_its_arn(table: str, is_same: bool) -> None:
    store = DynamoDBStore(table, tenant="acme")
    assert next(store.changes(parsed("lambda-kinesis"))).commit  # records of Kinesis have only its name
    with suppress(StoreRejected) if not is_same else nullcontext():
        assert next(store.changes(parsed("lambda-dynamodb"))).commit
        assert is_same, "a record of another table was accepted"


def test_records_that_name_no_table_are_accepted() -> None:
    event = parsed("lambda-dynamodb")
    for record in event["Records"]:
        del record["eventSourceARN"]
    assert next(DynamoDBStore("ledger-2", tenant="acme").changes(event)).commit
