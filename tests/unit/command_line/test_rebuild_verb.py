"""`eventsrc verify` and `eventsrc rebuild`: what they print, where errors appear, and what is active afterwards."""

from __future__ import annotations

import asyncio
import json
import shutil
from collections.abc import Callable
from pathlib import Path

import pytest
from support import shop
from support.terminal import run_on_terminal

from eventsrc.inspection import App

Run = Callable[..., tuple[int, str]]
REBUILD = ["rebuild", "view", "--app", "support.shop:new_app"]


async def use(view: type[shop.View]) -> tuple[int | None, int]:
    """Return the active version, and the position of a version in the stream."""
    async with shop.app(view) as opened:
        [processor] = opened.processors
        position = (await processor.positions(["account-a"])).get("account-a", 0)
        return await processor.checkpoints.active("view"), position


async def run_until_caught_up() -> None:
    async with shop.app() as opened:
        await skip_poison(opened)


async def skip_poison(opened: App) -> None:
    [processor] = opened.processors
    if await processor.parked():
        await processor.skip("account-a", "a test")


@pytest.fixture
def old_in_use(folder: Path) -> None:
    """Version 1 of the read model is active, and has handled all."""
    asyncio.run(shop.park())
    asyncio.run(run_until_caught_up())


def test_verify_prints_what_was_not_handled_and_handles_nothing(run: Run) -> None:
    assert run("verify", "view", app=True)[0] == 1
    assert asyncio.run(use(shop.View))[1] == 0
    asyncio.run(shop.park())
    code, text = run("verify", "view", app=True)
    assert (code, text) == (1, "view@1: 1 streams, 0 commits not handled, 1 parked\n")
    asyncio.run(run_until_caught_up())
    assert run("verify", "view", "--rate", "1000", app=True) == (
        0,
        "view@1: 1 streams, 0 commits not handled, 0 parked\n",
    )
    asyncio.run(shop.deposit(7))
    code, text = run("verify", "view@1", "--json", app=True)
    expected = {"processor": "view@1", "streams": 1, "missing": 1, "parked": 0, "lost": [], "changed": []}
    assert (code, json.loads(text)) == (1, expected)


@pytest.mark.usefixtures("old_in_use")
def test_verify_names_streams_that_a_restore_has_cut(folder: Path, run: Run) -> None:
    shutil.copy("shop.db", "backup.db")
    asyncio.run(shop.deposit(7))
    asyncio.run(shop.park())
    shutil.copy("backup.db", "shop.db")
    code, text = run("verify", "view", app=True)
    assert code == 1
    assert "lost: account-a ends at version 3, before what was handled" in text
    assert "forget view@1 and run it again" in text


@pytest.mark.usefixtures("old_in_use")
def test_a_dry_run_says_what_a_rebuild_would_do(run: Run) -> None:
    assert run("rebuild", "view", "--dry-run", app="whole_app") == (
        0,
        "view@2 would handle 3 of 3 commits while view@1 continues, and then replace it\n",
    )
    assert json.loads(run("rebuild", "view", "--dry-run", "--json", app="whole_app")[1]) == {
        "processor": "view@2",
        "active": 1,
        "handled": 0,
        "total": 3,
    }
    for option in ("--dry-run", "--yes"):  # it would only fence the process that runs it
        code, text = run("rebuild", "view", option, app=True)
        assert (code, "view@1 is active, so run it" in text) == (2, True)
    assert asyncio.run(use(shop.WholeView)) == (1, 0)


def test_a_rebuild_without_an_active_version(run: Run) -> None:
    assert "would handle 3 of 3 commits and become active" in run("rebuild", "view", "--dry-run", app="whole_app")[1]
    assert run("rebuild", "view", "--yes", app="whole_app") == (
        0,
        "view@2 has handled 3 commits; view@2 is active\n",
    )
    assert asyncio.run(use(shop.WholeView)) == (2, 3)


@pytest.mark.usefixtures("old_in_use")
def test_a_rebuild_switches_to_the_new_version(run: Run) -> None:
    code, text = run("rebuild", "view", app="whole_app")
    assert (code, "give --yes" in text) == (2, True)
    code, text = run("rebuild", "view", "--json", "--yes", app="whole_app")
    expected = {"processor": "view@2", "handled": 3, "active": 2, "parked": [], "error": ""}
    assert (code, json.loads(text)) == (0, expected)
    assert asyncio.run(use(shop.WholeView)) == (2, 3)


@pytest.mark.usefixtures("old_in_use")
def test_a_rebuild_that_fails_leaves_the_old_version_active(run: Run) -> None:
    code, text = run("rebuild", "view", "--yes", app="new_app")
    assert (code, text.startswith("view@2 failed: ValueError: unlucky")) == (1, True)
    assert text.endswith("fix the handler and rebuild again, or give --on-error park; view@1 is active\n")
    assert asyncio.run(use(shop.NewView)) == (1, 2)
    code, text = run("rebuild", "view", "--yes", "--json", app="new_app")
    assert (code, json.loads(text)["error"].startswith("ValueError: unlucky")) == (1, True)


@pytest.mark.usefixtures("old_in_use")
def test_parked_streams_are_shown_above_the_bar_and_at_the_end() -> None:
    ended = run_on_terminal(*REBUILD, "--on-error", "park", answer="view@2")
    assert ended.code == 1
    lines = [line.rpartition("\r")[2] for line in ended.screen.split("\n")]
    assert [line for line in lines if line.startswith("ERROR view@2: account-a is parked at version 3")]
    assert "view@2  [....................]" not in ended.screen
    assert "view@2  [####################..........]  66%  2 of 3 commits" in ended.screen
    assert lines[-1].strip() == ""
    first, last = ended.out.splitlines()
    assert first.startswith("view@2  account-a@3  1 attempts")
    assert last == "view@2 has handled 2 commits; view@2 is active"


@pytest.mark.usefixtures("old_in_use")
def test_a_rebuild_needs_the_name_of_the_processor() -> None:
    ended = run_on_terminal(*REBUILD, answer="view")
    assert (ended.code, ended.out) == (1, "")
    assert asyncio.run(use(shop.NewView)) == (1, 0)


def test_a_version_that_starts_now_cannot_be_rebuilt(run: Run) -> None:
    for more in (["--dry-run"], ["--yes"]):
        code, text = run("rebuild", "view", *more, app="late_app")
        assert (code, "give the new version a tag of its own" in text) == (2, True)


@pytest.mark.usefixtures("old_in_use")
def test_a_rebuild_may_be_interrupted_and_continued(run: Run) -> None:
    arguments = ["rebuild", "view", "--yes", "--app", "support.shop:patient_app"]
    ended = run_on_terminal(*arguments, when="2 of 3 commits", act=lambda process: process.send_signal(2))
    assert (ended.code, ended.out) == (130, "")
    assert ended.screen.rpartition("\r")[2] == ""  # the bar is gone
    assert asyncio.run(use(shop.NewView)) == (1, 2)
    assert "would handle 1 of 3 commits" in run("rebuild", "view", "--dry-run", app="whole_app")[1]
    assert run("rebuild", "view", "--yes", app="whole_app")[0] == 0
    assert asyncio.run(use(shop.WholeView)) == (2, 3)
