"""Where pending timers are kept, sorted by time: rows that are made from the events of processes."""

from __future__ import annotations

from .timers import Due, Timers, timers_in

__all__ = ["Due", "Timers", "timers_in"]
