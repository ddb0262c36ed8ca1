"""Maps for tests of pictures, and commits that cause each other."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import msgspec

from eventsrc.aggregates.codec import pack
from eventsrc.store import Commit
from eventsrc.tracing import Edge, Kind, Map
from eventsrc.uuid7 import uuid7

START = 1_700_000_000_000_000  # µs


def caused(id: str, *causes: str, tags: Sequence[str] = ("order.placed",), ms: float = 0, **fields: Any) -> Commit:
    """Return a commit, as `order-7@1`, with an event for each tag."""
    stream, _, version = id.rpartition("@")
    body = msgspec.msgpack.encode([{"$": tag} for tag in tags])
    given: dict[str, Any] = {"id": uuid7(), "payload": pack(body, stream, int(version)), "correlation_id": "request-9"}
    return Commit(
        stream=stream,
        version=int(version),
        time=START + round(ms * 1000),
        events=len(tags),
        tags=tuple(dict.fromkeys(tags)),
        causation_ids=causes,
        **(given | fields),
    )


def kind(tag: str, count: int = 1, *places: str, failed: int = 0) -> Kind:
    return Kind(tag=tag, count=count, places=places or ("shop",), failed=failed)


def edge(cause: str, effect: str, count: int = 1, p95: float | None = 0.04, **fields: Any) -> Edge:
    given: dict[str, Any] = {"followed": count, "p50": None if p95 is None else p95 / 2, "skewed": 0, "failed": 0}
    return Edge(cause=cause, effect=effect, count=count, p95=p95, **(given | fields))


def small_map() -> Map:
    """Return a map with each thing that a picture shows in a way of its own."""
    return Map(
        kinds=(
            kind("order.placed", 1_204, "shop", "app"),
            kind("stock.reserved", 1_190, "stock"),
            kind("payment.taken", 1_150, "payments", failed=4),
            kind("payment.refused", 60, "payments"),
            kind("order.confirmed", 1_148, failed=2),
            kind("letter.sent", 2_290, "mailing"),
            kind("parcel.packed", 1_100, "shipping"),
            kind("parcel.sent", 1_099, "shipping"),
            kind("計測.開始", 12, "計測"),
            kind("order.a_name_that_is_longer_than_a_label", 3),
        ),
        edges=(
            edge("order.placed", "stock.reserved", 1_190, 0.04),
            edge("order.placed", "payment.taken", 1_150, 2.1, failed=7),
            edge("payment.taken", "order.confirmed", 1_148),
            edge("stock.reserved", "order.confirmed", 1_148, 3.0),
            edge("order.confirmed", "letter.sent", 1_146, failed=2),
            edge("order.confirmed", "parcel.packed", 1_100, 7_440.0),
            edge("parcel.packed", "parcel.sent", 1_099, skewed=14),
            edge("parcel.sent", "letter.sent", 1_144),
            edge("order.placed", "payment.refused", 60),
            edge("payment.refused", "order.placed", 41, 300.0),
            edge("payment.refused", "payment.refused", 17, 60.0),
            edge("order.placed", "計測.開始", 12, None, skewed=12),
        ),
        since=START,
        outside=3,
        failures=("archive: StoreUnavailable: no connection",),
    )
