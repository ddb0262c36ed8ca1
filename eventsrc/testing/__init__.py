"""Tools for tests: given/when/then for aggregates, and a kit for projections.

`eventsrc.testing.contract` has the contracts that stores, checkpoints and projections of your own keep.
"""

from .projections import Crash, ProjectionKit, every_crash
from .scenario import Given, Outcome, given, when

__all__ = ["Crash", "Given", "Outcome", "ProjectionKit", "every_crash", "given", "when"]
