"""Tools for tests: given/when/then for aggregates. `eventsrc.testing.contract` has the contract of stores."""

from .scenario import Given, Outcome, given, when

__all__ = ["Given", "Outcome", "given", "when"]
