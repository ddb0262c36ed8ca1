"""The settings of a table: as `create_table` requests them, and as the service describes them."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any, NamedTuple

import msgspec

from ...errors import StoreRejected

TRACES = "traces"
"""The name of the index of commits by their correlation id and time. It contains whole commits."""

NEW_IMAGES = {"StreamEnabled": True, "StreamViewType": "NEW_IMAGE"}
RECOVERY = {"PointInTimeRecoveryEnabled": True}


class TableSettings(NamedTuple):
    """The settings of a table, all of which are optional but its name and its keys.

    `keys` maps the partition key and the sort key, in this order, to their types. `traces` does the same for the keys
    of the index TRACES.
    """

    name: str
    keys: Mapping[str, str]
    stream: bool = False
    traces: Mapping[str, str] | None = None
    point_in_time_recovery: bool = False
    deletion_protection: bool = False

    @property
    def key_types(self) -> list[dict[str, str]]:
        """The types of all keys, also of the index."""
        types = {**self.keys, **(self.traces or {})}
        return [{"AttributeName": name, "AttributeType": kind} for name, kind in types.items()]

    @property
    def trace_index(self) -> dict[str, Any]:
        """The index TRACES, of a table that has one."""
        assert self.traces is not None
        return {"IndexName": TRACES, "KeySchema": key_schema(self.traces), "Projection": {"ProjectionType": "ALL"}}

    def to_request(self) -> dict[str, Any]:
        """Return the request of CreateTable. Point-in-time recovery is turned on by another one."""
        request: dict[str, Any] = {
            "TableName": self.name,
            "AttributeDefinitions": self.key_types,
            "KeySchema": key_schema(self.keys),
            "BillingMode": "PAY_PER_REQUEST",
        }
        if self.traces is not None:
            request["GlobalSecondaryIndexes"] = [self.trace_index]
        if self.stream:
            request["StreamSpecification"] = NEW_IMAGES
        if self.deletion_protection:
            request["DeletionProtectionEnabled"] = True
        return request


class StreamSettings(msgspec.Struct):
    StreamEnabled: bool = False
    StreamViewType: str = ""

    @property
    def has_new_images(self) -> bool:
        return self.StreamViewType in ("NEW_IMAGE", "NEW_AND_OLD_IMAGES")

    def check_view(self) -> None:
        """Raise StoreRejected if the records of the stream lack what a feed reads."""
        if not self.has_new_images:
            raise StoreRejected(
                "StreamViewType", "the stream carries no new images; turn it off, and on again with view type NEW_IMAGE"
            )


class IndexDescription(msgspec.Struct):
    IndexName: str
    IndexStatus: str = "ACTIVE"
    KeySchema: list[dict[str, str]] = []
    Projection: dict[str, Any] = {}

    def is_of(self, traces: Mapping[str, str]) -> bool:
        """Whether this index has these keys, and whole commits."""
        return self.KeySchema == key_schema(traces) and self.Projection.get("ProjectionType") == "ALL"


class Billing(msgspec.Struct):
    BillingMode: str = "PROVISIONED"


class TableDescription(msgspec.Struct):
    TableStatus: str
    KeySchema: list[dict[str, str]]
    AttributeDefinitions: list[dict[str, str]]
    TableArn: str = ""
    TableSizeBytes: int = 0
    ItemCount: int = 0
    GlobalSecondaryIndexes: list[IndexDescription] = []
    StreamSpecification: StreamSettings = msgspec.field(default_factory=StreamSettings)
    LatestStreamArn: str = ""
    BillingModeSummary: Billing = msgspec.field(default_factory=Billing)
    DeletionProtectionEnabled: bool = False
    Replicas: list[dict[str, Any]] = []

    @property
    def keys(self) -> dict[str, str]:
        """The keys of the table, the partition key first, with their types."""
        types = {each["AttributeName"]: each["AttributeType"] for each in self.AttributeDefinitions}
        ordered = sorted(self.KeySchema, key=lambda key: key["KeyType"])  # HASH, RANGE
        return {key["AttributeName"]: types.get(key["AttributeName"], "") for key in ordered}

    @property
    def traces(self) -> IndexDescription | None:
        """The index of the name TRACES; None if there is none."""
        return next((index for index in self.GlobalSecondaryIndexes if index.IndexName == TRACES), None)

    def check(self, settings: TableSettings) -> None:
        """Raise StoreRejected if the table exists with other settings than these, and they cannot be changed."""
        table = settings.name
        if list(self.keys.items()) != list(settings.keys.items()):
            raise StoreRejected(
                "KeySchema", f"table {table} exists with other keys than the store's; use another table"
            )
        if settings.stream and self.StreamSpecification.StreamEnabled:
            self.StreamSpecification.check_view()
        if settings.traces is not None and self.traces is not None and not self.traces.is_of(settings.traces):
            raise StoreRejected("IndexName", f"table {table} has another index of the name {TRACES}; delete that index")


class DescribeResponse(msgspec.Struct):
    Table: TableDescription


def key_schema(keys: Mapping[str, str]) -> list[dict[str, str]]:
    partition, sort = keys
    return [{"AttributeName": partition, "KeyType": "HASH"}, {"AttributeName": sort, "KeyType": "RANGE"}]
