"""Positions, and the fences of the workers that move them, within a transaction."""

from __future__ import annotations

import sqlite3
from collections.abc import Sequence

from ....errors import Fenced
from ...slice import Fence, PositionMoved, Slice

# Slices are inserted or updated: where one of them changes no row, the position has moved.
_INSERT = """
INSERT INTO eventsrc_positions (version, id, time, epoch, processor, stream) VALUES (?, ?, ?, ?, ?, ?)
ON CONFLICT DO NOTHING
"""
_UPDATE = """
UPDATE eventsrc_positions SET version = ?, id = ?, time = ?, epoch = ?
WHERE processor = ? AND stream = ? AND version = ?
"""


def advance(db: sqlite3.Connection, processor: str, runs: Sequence[Slice]) -> None:
    """Within a transaction: move the positions to the ends of these slices, or none of them.

    Raises Fenced and PositionMoved.
    """
    for fence in {run.fence for run in runs}:
        check_fence(db, processor, fence)
    inserts = [(*run.position, run.fence.epoch, processor, run.stream) for run in runs if run.is_first]
    updates = [(*run.position, run.fence.epoch, processor, run.stream, run.after) for run in runs if not run.is_first]
    db.execute("SAVEPOINT eventsrc_advance")
    moved = db.executemany(_INSERT, inserts).rowcount if inserts else 0
    moved += db.executemany(_UPDATE, updates).rowcount if updates else 0
    if moved != len(runs):
        db.execute("ROLLBACK TO eventsrc_advance")
    db.execute("RELEASE eventsrc_advance")
    if moved != len(runs):
        raise PositionMoved(_find_moved(db, processor, runs))


def delete_position(db: sqlite3.Connection, processor: str, stream: str, fence: Fence) -> None:
    """Within a transaction: delete the position of a stream. Raises Fenced."""
    check_fence(db, processor, fence)
    db.execute("DELETE FROM eventsrc_positions WHERE processor = ? AND stream = ?", (processor, stream))


def _find_moved(db: sqlite3.Connection, processor: str, runs: Sequence[Slice]) -> str:
    """Return the first stream whose position is not where its slice begins."""
    query = "SELECT version FROM eventsrc_positions WHERE processor = ? AND stream = ?"
    for run in runs:
        found = db.execute(query, (processor, run.stream)).fetchone()
        if found != (None if run.is_first else (run.after,)):
            return run.stream
    return runs[-1].stream  # the same stream twice


def check_fence(db: sqlite3.Connection, processor: str, fence: Fence) -> None:
    query = "SELECT epoch FROM eventsrc_slots WHERE processor = ? AND number = ?"
    found = db.execute(query, (processor, fence.slot)).fetchone()
    if found is not None and found[0] != fence.epoch:
        raise Fenced(processor, fence.slot)
