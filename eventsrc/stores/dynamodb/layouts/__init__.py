"""The layouts: where snapshots are stored in a stream's partition. docs/storage.md compares them."""

from collections.abc import Callable
from typing import Literal

from .interleaved import Interleaved
from .layout import Layout
from .snapshot_first import SnapshotFirst
from .snapshot_last import SnapshotLast

__all__ = ["LAYOUTS", "Layout", "LayoutName"]

LayoutName = Literal["snapshot-last", "snapshot-first", "interleaved"]

LAYOUTS: dict[str, Callable[[], Layout]] = {
    "snapshot-last": SnapshotLast,
    "snapshot-first": SnapshotFirst,
    "interleaved": Interleaved,
}
