"""A folder with the stores of a program, and command lines that run in it."""

from __future__ import annotations

import asyncio
from collections.abc import Callable
from pathlib import Path

import pytest
from support import shop

from eventsrc.command_line.main import main


@pytest.fixture
def folder(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    monkeypatch.chdir(tmp_path)
    monkeypatch.delenv("EVENTSRC_STORE", raising=False)
    asyncio.run(shop.fill(tmp_path))
    return tmp_path


@pytest.fixture
def run(folder: Path, capsys: pytest.CaptureFixture[str]) -> Callable[..., tuple[int, str]]:
    """Run a command line on the store or, with `app`, on the program. Return the code, and all that was printed."""

    def run_line(*arguments: str, app: bool | str = False) -> tuple[int, str]:
        name = app if isinstance(app, str) else "app"
        source = ["--app", f"support.shop:{name}"] if app else ["--store", "sqlite:///shop.db"]
        code = main([*arguments, *source])
        captured = capsys.readouterr()
        return code, captured.out + captured.err

    return run_line
