"""The embedded store, on SQLite."""

from .store import SQLiteStore

__all__ = ["SQLiteStore"]
