"""Tools for tests: given/when/then for aggregates and processes, and a kit for projections.

`eventsrc.testing.contract` has the contracts that stores, checkpoints and projections of your own keep.
"""

from .process_scenario import CommandOutcome, GivenProcess, answered, done, given_process, refused
from .projections import Crash, ProjectionKit, every_crash
from .scenario import Given, Outcome, given, when

__all__ = [
    "CommandOutcome",
    "Crash",
    "Given",
    "GivenProcess",
    "Outcome",
    "ProjectionKit",
    "answered",
    "done",
    "every_crash",
    "given",
    "given_process",
    "refused",
    "when",
]
