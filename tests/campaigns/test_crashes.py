"""A few kills; the long campaigns are in `make faults`."""

from __future__ import annotations

from pathlib import Path

import pytest

from campaigns import crashes
from campaigns.crashes import kills, kills_of_dynamodb_local
from eventsrc import Commit


def test_kills_of_sqlite_writers_lose_nothing_that_was_acknowledged(tmp_path: Path) -> None:
    found = kills(6, seed=1, directory=tmp_path)
    assert not found.violations
    assert (found.lost, found.duplicated) == (0, 0)
    assert found.acknowledged > 100


def test_the_campaign_sees_what_is_missing(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    logs = crashes._File._logs

    async def cut_short(file: crashes._File) -> dict[str, list[Commit]]:
        return {stream: log[:-3] for stream, log in (await logs(file)).items()}

    monkeypatch.setattr(crashes._File, "_logs", cut_short)
    found = kills(3, seed=1, directory=tmp_path)
    assert found.lost >= len(crashes.IDS)
    assert found.violations


async def test_a_kill_of_dynamodb_local_loses_nothing_that_was_acknowledged(tmp_path: Path) -> None:
    found = await kills_of_dynamodb_local(1, seed=1, directory=tmp_path)
    assert not found.violations
    assert (found.lost, found.duplicated) == (0, 0)
    assert found.acknowledged > 20
