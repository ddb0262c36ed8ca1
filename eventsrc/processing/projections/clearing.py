"""Find and delete the items of a read model in a table that may also hold other items."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import msgspec

from ...errors import DeclarationError
from ...stores.dynamodb.table import Table
from ...stores.dynamodb.wire.responses import Item, Metered, QueryResponse
from ...usage import Usage


class _KeyPart(msgspec.Struct):
    AttributeName: str
    KeyType: str


class _Attribute(msgspec.Struct):
    AttributeName: str
    AttributeType: str


class _Description(msgspec.Struct):
    KeySchema: list[_KeyPart]
    AttributeDefinitions: list[_Attribute]


class _Described(Metered, kw_only=True):
    """The response to DescribeTable, which consumes no units."""

    Table: _Description

    @property
    def units(self) -> float:
        return 0.0


async def delete_version(table: Table, name: str, processor: str) -> None:
    """Delete the items of the table `name` whose partition key starts with a processor's name, `balances@1`.

    Those of `balances@10` stay. This reads the whole table. Raises DeclarationError if its partition key is not a text.
    """
    used = Usage(calls=1)
    with table.guard(used):
        description = (await table.send("DescribeTable", {"TableName": name}, _Described, used)).Table
    keys = {each.KeyType: each.AttributeName for each in description.KeySchema}
    types = {each.AttributeName: each.AttributeType for each in description.AttributeDefinitions}
    if types[keys["HASH"]] != "S":
        raise DeclarationError(processor, f"declares the table {name}, whose partition key is not a text")
    values = {":name": {"S": processor}} | {f":{digit}": {"S": f"{processor}{digit}"} for digit in range(10)}
    others = " OR ".join(f"begins_with(#pk, :{digit})" for digit in range(10))
    await delete_matches(
        table,
        name,
        list(keys.values()),
        f"begins_with(#pk, :name) AND NOT ({others})",
        {"#pk": keys["HASH"]},
        values,
    )


async def delete_matches(
    table: Table, name: str, keys: list[str], condition: str, names: Mapping[str, str], values: Item
) -> None:
    """Delete the items of the table `name` that meet a condition. `keys` are its key attributes. Reads it all."""
    aliases = {f"#key{number}": key for number, key in enumerate(keys)}
    request: dict[str, Any] = {
        "TableName": name,
        "ConsistentRead": True,
        "FilterExpression": condition,
        "ProjectionExpression": ", ".join(aliases),
        "ExpressionAttributeNames": {**names, **aliases},
        "ExpressionAttributeValues": values,
        "ReturnConsumedCapacity": "TOTAL",
    }
    while True:
        used = Usage(calls=1)
        with table.guard(used):
            page = await table.send("Scan", request, QueryResponse[Item], used)
        await table.delete_all(name, page.Items)
        if page.LastEvaluatedKey is None:
            return
        request["ExclusiveStartKey"] = page.LastEvaluatedKey
