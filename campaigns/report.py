"""The report of a campaign: a row for each layer."""

from __future__ import annotations

from collections import Counter
from collections.abc import Mapping, Sequence
from typing import NamedTuple

from .history import Findings


class Layer(NamedTuple):
    """The result of one campaign on one layer. `lost` and `duplicated` count acknowledged commits and must be 0."""

    name: str
    operations: int
    faults: int  # injected
    acknowledged: int
    lost: int
    duplicated: int
    seconds: float
    seed: int
    violations: Sequence[str] = ()  # of any promise, as text; must be empty
    note: str = ""
    kinds: Mapping[str, int] = {}  # of faults and of their results, counted

    @classmethod
    def of(cls, name: str, findings: Findings, *, faults: int, seconds: float, seed: int, note: str = "") -> Layer:
        """Return the row for the findings of a checker."""
        operations, acknowledged, lost, duplicated, violations = findings
        return cls(name, operations, faults, acknowledged, lost, duplicated, seconds, seed, violations, note)

    def plus(self, other: Layer) -> Layer:
        """Return two parts of one campaign as one row."""
        return Layer(
            self.name,
            self.operations + other.operations,
            self.faults + other.faults,
            self.acknowledged + other.acknowledged,
            self.lost + other.lost,
            self.duplicated + other.duplicated,
            self.seconds + other.seconds,
            min(self.seed, other.seed),
            [*self.violations, *other.violations],
            self.note if self.note == other.note else "\n  ".join(filter(None, (self.note, other.note))),
            Counter(self.kinds) + Counter(other.kinds),
        )
