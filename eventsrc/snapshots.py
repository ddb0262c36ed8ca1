"""When a snapshot is worth writing: a few questions about bytes."""

from __future__ import annotations

from dataclasses import dataclass


@dataclass(frozen=True, slots=True, kw_only=True)
class SnapshotPolicy:
    """A snapshot is written once the commits since the last one weigh `ratio` times as much as it does.

    With `ratio=1` a load reads at most about twice the state, and all snapshots ever written weigh no more than all
    commits (the arithmetic is in docs/storage.md). Nothing is written before the commits weigh `floor` bytes: up to
    4 KB are one read unit of DynamoDB with or without a snapshot.

    The write happens behind the save, as a task that the store owns. `inline=True` makes the save wait for it, as AWS
    Lambda needs, which freezes what runs behind. `enabled=False` writes none; existing ones are still used.
    """

    ratio: float = 1.0
    floor: int = 4096
    inline: bool = False
    enabled: bool = True

    def __post_init__(self) -> None:
        if not self.ratio > 0:
            raise ValueError(f"ratio is {self.ratio}; it must be above 0")
        if self.floor < 0:
            raise ValueError(f"floor is {self.floor}; it must not be negative")

    def weighs(self, tail: int, threshold: int) -> bool:
        """Whether it is time to encode a snapshot and weigh it; `tail` bytes of commits follow the last one."""
        return self.enabled and tail >= self.floor and tail > threshold

    def writes(self, tail: int, size: int) -> bool:
        """Whether a snapshot of `size` bytes is worth writing."""
        return tail >= self.ratio * size

    def next_threshold(self, tail: int, size: int) -> int:
        """What the tail must outgrow before a snapshot is encoded again, after one of `size` bytes was too large.

        It grows by at least a quarter, so that encoding stays a constant share of saving whatever the state does.
        """
        return max(int(self.ratio * size), tail + tail // 4)
