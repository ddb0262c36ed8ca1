"""Verbs that change something: the name is typed on a terminal, and nothing happens on any other answer."""

from __future__ import annotations

import asyncio
from collections.abc import Callable
from pathlib import Path

import pytest
from support import shop
from support.terminal import run_on_terminal

SKIP = ["parked", "skip", "view", "account-a@3", "--reason", "a test", "--app", "support.shop:app"]


async def is_parked() -> bool:
    async with shop.app() as opened:
        return bool(await opened.processors[0].parked())


@pytest.fixture
def parked(folder: Path) -> None:
    asyncio.run(shop.park())


@pytest.mark.usefixtures("parked")
def test_the_name_is_typed_to_confirm() -> None:
    for answer in ("y", "", "view@1", "account-a"):
        ended = run_on_terminal(*SKIP, answer=answer)
        assert (ended.code, ended.out) == (1, "")
        assert ended.screen.startswith("type account-a@3 to continue: ")
        assert ended.screen.endswith("not confirmed; nothing was changed\n")
        assert asyncio.run(is_parked())
    ended = run_on_terminal(*SKIP, answer="account-a@3")
    assert (ended.code, ended.out) == (0, "account-a@3 is skipped\n")
    assert not asyncio.run(is_parked())


@pytest.mark.usefixtures("parked")
def test_a_question_can_be_interrupted() -> None:
    ended = run_on_terminal(*SKIP, act=lambda process: process.send_signal(2))
    assert (ended.code, ended.out) == (130, "")
    assert asyncio.run(is_parked())


@pytest.mark.usefixtures("parked")
def test_without_a_terminal_or_with_json_it_needs_yes(run: Callable[..., tuple[int, str]]) -> None:
    for verb in (["retry"], ["skip", "--reason", "a test"]):
        code, text = run("parked", verb[0], "view", "account-a", *verb[1:], app=True)
        assert (code, "no terminal to confirm it on; give --yes" in text) == (2, True)
    ended = run_on_terminal(*SKIP, "--json")
    assert (ended.code, "give --yes" in ended.screen) == (2, True)
    assert asyncio.run(is_parked())
    assert run("parked", "skip", "view", "account-a@3", "--reason", "a test", "--json", "--yes", app=True)[0] == 0
    assert not asyncio.run(is_parked())


@pytest.mark.usefixtures("folder")
def test_mistakes_are_named_before_anything_is_asked() -> None:
    ended = run_on_terminal("parked", "retry", "mail", "account-a", "--app", "support.shop:app")
    assert (ended.code, "known: view@1" in ended.screen, "to continue" in ended.screen) == (2, True, False)
