"""Processes: events lead to commands, exactly once, with timers that survive.

```python
class Fulfilment(Process, tag="fulfilment"):
    def on_placed(self, event: Placed) -> Asks:
        yield command(Stock, event.sku, Stock.reserve, self.id, event.quantity)
        yield after(timedelta(minutes=15), PaymentMissing())
```
"""

from __future__ import annotations

from .asks import (
    Ask,
    Asks,
    Call,
    Cancel,
    Command,
    End,
    Timer,
    after,
    at,
    call,
    cancel,
    command,
    create_or_command,
    end,
)
from .events import Done, Refused
from .manager import ProcessManager
from .process import Input, Instance, PendingTimer, Process
from .scheduling import Scheduler
from .steps import ServiceRefused
from .stuck import Stuck, find_stuck
from .timers import Due, Timers

__all__ = [
    "Ask",
    "Asks",
    "Call",
    "Cancel",
    "Command",
    "Done",
    "Due",
    "End",
    "Input",
    "Instance",
    "PendingTimer",
    "Process",
    "ProcessManager",
    "Refused",
    "Scheduler",
    "ServiceRefused",
    "Stuck",
    "Timer",
    "Timers",
    "after",
    "at",
    "call",
    "cancel",
    "command",
    "create_or_command",
    "end",
    "find_stuck",
]
