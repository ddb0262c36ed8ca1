"""The read side: processors take what a feed tells to projections, each commit once and in order."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

from .checkpoints import Checkpoints, MemoryCheckpoints, Parked, Skipped, Slot
from .leases import Leases
from .mirror import Mirror
from .processor import Processor
from .projection import Effects, Guarantee, MemoryProjection, Projection
from .rebuild import rebuild
from .run import Context
from .runner import Runner
from .sqlite import Database, SQLiteContext, SQLiteProjection
from .sqlite_checkpoints import SQLiteCheckpoints
from .status import Status, health, status
from .verify import Verified, verify

if TYPE_CHECKING:
    from .awslambda import lambda_handler
    from .dynamodb import DynamoDBContext, DynamoDBProjection
    from .dynamodb_checkpoints import DynamoDBCheckpoints
    from .dynamodb_rows import DynamoDBRows, RowContext

__all__ = [
    "Checkpoints",
    "Context",
    "Database",
    "DynamoDBCheckpoints",
    "DynamoDBContext",
    "DynamoDBProjection",
    "DynamoDBRows",
    "Effects",
    "Guarantee",
    "Leases",
    "MemoryCheckpoints",
    "MemoryProjection",
    "Mirror",
    "Parked",
    "Processor",
    "Projection",
    "RowContext",
    "Runner",
    "SQLiteCheckpoints",
    "SQLiteContext",
    "SQLiteProjection",
    "Skipped",
    "Slot",
    "Status",
    "Verified",
    "health",
    "lambda_handler",
    "rebuild",
    "status",
    "verify",
]


def __getattr__(name: str) -> Any:
    """Import what is for DynamoDB when it is first asked for."""
    if name == "lambda_handler":
        from .awslambda import lambda_handler

        return lambda_handler
    if name == "DynamoDBCheckpoints":
        from .dynamodb_checkpoints import DynamoDBCheckpoints

        return DynamoDBCheckpoints
    if name in ("DynamoDBContext", "DynamoDBProjection"):
        from . import dynamodb

        return getattr(dynamodb, name)
    if name in ("DynamoDBRows", "RowContext"):
        from . import dynamodb_rows

        return getattr(dynamodb_rows, name)
    raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
