"""The read side: processors pass the commits of a feed to projections, each once and in stream order."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

from .checkpoints.checkpoints import Checkpoints, Parked, Skipped, Slot, tombstone
from .checkpoints.memory import MemoryCheckpoints
from .checkpoints.registry import Registration, Registry
from .checkpoints.sqlite.checkpoints import SQLiteCheckpoints
from .checkpoints.url import open_checkpoints
from .checkpoints.workers import Workers
from .leases import Leases
from .processor import Processor
from .projections.effects import Effects
from .projections.issuing import EffectContext
from .projections.memory import MemoryProjection
from .projections.mirror import Mirror
from .projections.projection import Failure, Guarantee, Projection
from .projections.sqlite import Database, SQLiteContext, SQLiteProjection
from .rebuild import rebuild
from .registered import RegisteredProcessor, processors
from .runner import Runner
from .slice import Context, Fence, HandlerFailed, Position, PositionMoved, Slice
from .status import Status, health, status
from .verify import Verified, verify

if TYPE_CHECKING:
    from .aws_lambda import lambda_handler
    from .checkpoints.dynamodb.checkpoints import DynamoDBCheckpoints
    from .projections.dynamodb import DynamoDBContext, DynamoDBProjection, Writes
    from .projections.dynamodb_rows import DynamoDBRows, RowContext

__all__ = [
    "Checkpoints",
    "Context",
    "Database",
    "DynamoDBCheckpoints",
    "DynamoDBContext",
    "DynamoDBProjection",
    "DynamoDBRows",
    "EffectContext",
    "Effects",
    "Failure",
    "Fence",
    "Guarantee",
    "HandlerFailed",
    "Leases",
    "MemoryCheckpoints",
    "MemoryProjection",
    "Mirror",
    "Parked",
    "Position",
    "PositionMoved",
    "Processor",
    "Projection",
    "RegisteredProcessor",
    "Registration",
    "Registry",
    "RowContext",
    "Runner",
    "SQLiteCheckpoints",
    "SQLiteContext",
    "SQLiteProjection",
    "Skipped",
    "Slice",
    "Slot",
    "Status",
    "Verified",
    "Workers",
    "Writes",
    "health",
    "lambda_handler",
    "open_checkpoints",
    "processors",
    "rebuild",
    "status",
    "tombstone",
    "verify",
]


def __getattr__(name: str) -> Any:
    """Import the DynamoDB names on first use."""
    if name == "lambda_handler":
        from .aws_lambda import lambda_handler

        return lambda_handler
    if name == "DynamoDBCheckpoints":
        from .checkpoints.dynamodb.checkpoints import DynamoDBCheckpoints

        return DynamoDBCheckpoints
    if name in ("DynamoDBContext", "DynamoDBProjection", "Writes"):
        from .projections import dynamodb

        return getattr(dynamodb, name)
    if name in ("DynamoDBRows", "RowContext"):
        from .projections import dynamodb_rows

        return getattr(dynamodb_rows, name)
    raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
