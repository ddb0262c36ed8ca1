"""Read models in PostgreSQL: checkpoints and a kind of projection of your own. See docs/own-projections.md."""

from .checkpoints import PostgresCheckpoints
from .pool import Database
from .projection import PostgresContext, PostgresProjection

__all__ = ["Database", "PostgresCheckpoints", "PostgresContext", "PostgresProjection"]
