"""Workers in a DynamoDB table."""

from __future__ import annotations

from collections.abc import Mapping

from ....stores.dynamodb.table import Table
from ....stores.dynamodb.wire.attributes import number_of
from ..workers import Workers
from .expressions import alias, to_numbers
from .keys import WORKERS


class DynamoDBWorkers(Workers):
    """The workers of the processors of one table."""

    def __init__(self, table: Table) -> None:
        self._table = table

    async def heartbeat(self, worker: str) -> None:
        await self._table.update(
            {
                "Key": self._table.key(WORKERS, worker),
                "UpdateExpression": "ADD #beats :one",
                "ExpressionAttributeNames": alias("beats"),
                "ExpressionAttributeValues": to_numbers({":one": 1}),
            }
        )

    async def beats(self) -> Mapping[str, int]:
        return {
            self._table.sort_key_of(item): number_of(item, "beats") for item in await self._table.query_all(WORKERS)
        }

    async def sign_off(self, worker: str) -> None:
        await self._table.delete(self._table.key(WORKERS, worker))
