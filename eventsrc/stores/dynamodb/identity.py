"""The identity of a table: a text that is drawn once and kept in an item."""

from __future__ import annotations

from uuid import uuid4

from .items import Items
from .table import Table
from .wire.attributes import text_of


class Identity:
    """The identity of a table, as one tenant sees it. Make a new one each time that the table is opened."""

    def __init__(self, table: Table, items: Items) -> None:
        self._table, self._items = table, items
        self._drawn = ""

    async def read(self) -> str:
        """Return the identity: the text in the table and, with a tenant, a delimiter and the tenant.

        The first call for a table writes the item. All callers that do so at once get the same text. Raises StoreError.
        """
        items = self._items
        if not self._drawn:
            if (item := await self._table.get(items.identity_key)) is None:
                await self._table.put(items.from_identity(uuid4().hex), only_if_new=True)
                item = await self._table.get(items.identity_key)
            self._drawn = text_of(item or {}, items.identity_attribute)
        return f"{self._drawn}|{items.tenant}" if items.tenant is not None else self._drawn
