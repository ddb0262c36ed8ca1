"""The service of the warehouse: what is in stock, and the parcels that leave it."""

from __future__ import annotations

from eventsrc import Aggregate, Event


class Delivered(Event, tag="item.delivered"):
    count: int


class Reserved(Event, tag="stock.reserved"):
    order: str
    count: int


class Refused(Event, tag="stock.refused"):
    order: str
    count: int
    left: int


class Released(Event, tag="stock.released"):
    order: str
    count: int


class Item(Aggregate, tag="item"):
    """An article, how many of it are left, and for which orders some are reserved."""

    left: int = 0
    reserved: dict[str, int] = {}  # noqa: RUF012  # pieces by order; each aggregate gets its own

    def deliver(self, count: int) -> None:
        self.record(Delivered(count=count))

    def reserve(self, order: str, count: int) -> None:
        """Reserve some for an order, or record that there are too few."""
        if order in self.reserved:
            return
        if count > self.left:
            self.record(Refused(order=order, count=count, left=self.left))
        else:
            self.record(Reserved(order=order, count=count))

    def release(self, order: str) -> None:
        if order in self.reserved:
            self.record(Released(order=order, count=self.reserved[order]))

    def apply_delivered(self, event: Delivered) -> None:
        self.left += event.count

    def apply_reserved(self, event: Reserved) -> None:
        self.left -= event.count
        self.reserved[event.order] = event.count

    def apply_refused(self, event: Refused) -> None:
        pass

    def apply_released(self, event: Released) -> None:
        self.left += event.count
        del self.reserved[event.order]


class GoodsReady(Event, tag="parcel.goods-ready"):
    because: str


class MoneyReady(Event, tag="parcel.money-ready"):
    because: str


class Packed(Event, tag="parcel.packed"):
    order: str


class Parcel(Aggregate, tag="parcel"):
    """A parcel for the order with the same id. It is packed once its goods and its money are there, in either order."""

    goods: str = ""  # the id of the event that brought them
    money: str = ""
    packed: bool = False

    def note_goods(self, because: str) -> None:
        if not self.goods:
            self.record(GoodsReady(because=because))

    def note_money(self, because: str) -> None:
        if not self.money:
            self.record(MoneyReady(because=because))

    def pack(self) -> None:
        if self.goods and self.money and not self.packed:
            self.record(Packed(order=self.id))

    def apply_goods(self, event: GoodsReady) -> None:
        self.goods = event.because

    def apply_money(self, event: MoneyReady) -> None:
        self.money = event.because

    def apply_packed(self, event: Packed) -> None:
        self.packed = True
