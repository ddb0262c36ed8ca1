"""The examples in README.md and docs/ run.

The python blocks of one page run in order, in one module, in an empty folder; `await` is allowed at the top. A block
after the line `<!-- needs dynamodb -->` finds a DynamoDB Local through the environment. What is not meant to run is not
a python block.
"""

from __future__ import annotations

import ast
import asyncio
import inspect
import re
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from types import ModuleType

import pytest

ROOT = Path(__file__).parents[2]
PAGES = [ROOT / "README.md", *sorted((ROOT / "docs").glob("*.md"))]
BLOCK = re.compile(r"(?P<dynamodb><!-- needs dynamodb -->\n+)?^```python\n(?P<code>.*?)^```$", re.MULTILINE | re.DOTALL)


@pytest.mark.parametrize("page", PAGES, ids=lambda page: page.name)
def test_the_examples_run(
    page: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, request: pytest.FixtureRequest
) -> None:
    blocks = list(BLOCK.finditer(text := page.read_text()))
    assert len(blocks) == text.count("```python"), "a python block that is not closed, or not at the line's start"
    if any(block["dynamodb"] for block in blocks):
        endpoint = request.getfixturevalue("dynamodb_endpoint")
        monkeypatch.setenv("EVENTSRC_DYNAMODB_ENDPOINT", endpoint)
        monkeypatch.setenv("AWS_ENDPOINT_URL_DYNAMODB", endpoint)
        # A database of its own for each page: DynamoDB Local keeps one per access key.
        monkeypatch.setenv("AWS_ACCESS_KEY_ID", page.stem)
        monkeypatch.setenv("AWS_SECRET_ACCESS_KEY", "local")
        monkeypatch.setenv("AWS_REGION", "eu-west-1")
        monkeypatch.setenv("AWS_DEFAULT_REGION", "eu-west-1")
    monkeypatch.chdir(tmp_path)
    with _module(page) as (module, runner):
        for block in blocks:
            line = text.count("\n", 0, block.start("code"))
            source = "\n" * line + block["code"]  # so that a traceback names the page's line
            code = compile(source, str(page), "exec", ast.PyCF_ALLOW_TOP_LEVEL_AWAIT)
            if code.co_flags & inspect.CO_COROUTINE:
                runner.run(eval(code, module.__dict__))
            else:
                exec(code, module.__dict__)


@contextmanager
def _module(page: Path) -> Iterator[tuple[ModuleType, asyncio.Runner]]:
    """A real module, as handlers find their events by the globals of their functions, and a loop for its awaits."""
    module = ModuleType(f"example_{page.stem}")
    sys.modules[module.__name__] = module
    try:
        with asyncio.Runner() as runner:
            yield module, runner
    finally:
        del sys.modules[module.__name__]
