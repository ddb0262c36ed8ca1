"""The commits among items or records, and those that cannot be read."""

from __future__ import annotations

from collections.abc import Callable, Iterable
from typing import NamedTuple, TypeVar

from ....errors import CorruptPayload
from ....store import Commit
from ...feed import Damaged

T = TypeVar("T")


class Found(NamedTuple):
    """Commits, and the items in the places of commits that this library did not write, or that were altered."""

    commits: list[Commit]
    damaged: tuple[Damaged, ...]
    sound: int  # the number of commits before the first damaged item

    @property
    def commits_before(self) -> list[Commit]:
        """The commits before the first damaged item."""
        return self.commits[: self.sound]


def find_commits(rows: Iterable[T], to_commit: Callable[[T], Commit | None]) -> Found:
    """Read each row with `to_commit`, which returns None for a row that is not a commit.

    Raises CorruptPayload if the keys of a row are not those of the table.
    """
    commits: list[Commit] = []
    damaged: list[Damaged] = []
    sound = 0
    for row in rows:
        try:
            commit = to_commit(row)
        except CorruptPayload as error:
            if not error.version:
                raise
            sound = sound if damaged else len(commits)
            damaged.append(Damaged(error.stream, error.version, error.with_traceback(None)))
        else:
            if commit is not None:
                commits.append(commit)
    return Found(commits, tuple(damaged), sound if damaged else len(commits))
