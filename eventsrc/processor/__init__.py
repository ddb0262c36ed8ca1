"""The read side: processors take what a feed tells to projections, each commit once and in order."""

from .checkpoints import Checkpoints, MemoryCheckpoints, Parked, Skipped, Slot
from .leases import Leases
from .processor import Processor
from .projection import Effects, Guarantee, MemoryProjection, Projection
from .rebuild import rebuild
from .run import Context
from .runner import Runner
from .sqlite import SQLiteContext, SQLiteProjection
from .sqlite_checkpoints import SQLiteCheckpoints
from .status import Status, health, status
from .verify import Verified, verify

__all__ = [
    "Checkpoints",
    "Context",
    "Effects",
    "Guarantee",
    "Leases",
    "MemoryCheckpoints",
    "MemoryProjection",
    "Parked",
    "Processor",
    "Projection",
    "Runner",
    "SQLiteCheckpoints",
    "SQLiteContext",
    "SQLiteProjection",
    "Skipped",
    "Slot",
    "Status",
    "Verified",
    "health",
    "rebuild",
    "status",
    "verify",
]
