"""The service of the warehouse: what is in stock, and the parcels that leave it."""

from __future__ import annotations

from eventsrc import Aggregate, Event

HEAVY = "desk"  # one of them is a parcel


class Delivered(Event, tag="item.delivered"):
    count: int


class Reserved(Event, tag="stock.reserved"):
    order: str
    count: int


class Released(Event, tag="stock.released"):
    order: str
    count: int


class OutOfStock(Exception):
    pass


class TooHeavy(Exception):
    pass


class Item(Aggregate, tag="item"):
    """An article, how many of it are left, and for which orders some are reserved."""

    left: int = 0
    reserved: dict[str, int] = {}  # noqa: RUF012  # pieces by order; each aggregate gets its own

    def deliver(self, count: int) -> None:
        self.record(Delivered(count=count))

    def reserve(self, order: str, count: int) -> None:
        """Reserve some for an order. Raises OutOfStock."""
        if count > self.left:
            raise OutOfStock(f"only {self.left} left")
        self.record(Reserved(order=order, count=count))

    def release(self, order: str) -> None:
        if order in self.reserved:
            self.record(Released(order=order, count=self.reserved[order]))

    def apply_delivered(self, event: Delivered) -> None:
        self.left += event.count

    def apply_reserved(self, event: Reserved) -> None:
        self.left -= event.count
        self.reserved[event.order] = event.count

    def apply_released(self, event: Released) -> None:
        self.left += event.count
        del self.reserved[event.order]


class Packed(Event, tag="parcel.packed"):
    sku: str
    count: int


class Parcel(Aggregate, tag="parcel"):
    """A parcel for the order with the same id."""

    packed: bool = False

    def pack(self, sku: str, count: int) -> None:
        """Pack it. Raises TooHeavy."""
        if sku == HEAVY and count > 1:
            raise TooHeavy(f"no parcel holds {count} of {sku}")
        self.record(Packed(sku=sku, count=count))

    def apply_packed(self, event: Packed) -> None:
        self.packed = True
