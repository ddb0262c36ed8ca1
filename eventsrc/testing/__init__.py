"""What users test with: given/when/then for aggregates; the contract of stores is `eventsrc.testing.contract`."""

from .scenario import Given, Outcome, given, when

__all__ = ["Given", "Outcome", "given", "when"]
