"""The examples in README.md and docs/ run, and the tables of the pages match the code.

The python blocks of a page run in order, as one module, in an empty folder. `await` is allowed at the top level. A
block after the line `<!-- needs dynamodb -->` finds a DynamoDB Local through the environment, and one after
`<!-- needs postgres -->` a PostgreSQL server with an empty database `ledger`. On a page with the line
`<!-- continues other.md -->`, the blocks of that page run first. All python blocks run: examples that cannot run use
one of the languages in NOT_RUN.
"""

from __future__ import annotations

import ast
import asyncio
import inspect
import re
import secrets
import sqlite3
import sys
from collections.abc import Iterator
from contextlib import ExitStack, closing, contextmanager
from importlib import import_module
from pathlib import Path
from types import CodeType, ModuleType
from typing import Any

import msgspec
import pytest
from psycopg.conninfo import conninfo_to_dict
from support.postgres import create_database, postgres_server

import eventsrc
from eventsrc import (
    Commit,
    DynamoDBStore,
    EventsrcError,
    Snapshot,
    SourceError,
    SQLiteStore,
    StoredDataError,
    StoreError,
)
from eventsrc.stores.dynamodb.items import NAMES
from eventsrc.stores.dynamodb.rights import SIDES, make_policy
from eventsrc.stores.sqlite.connection import SCHEMA

ROOT = Path(__file__).parents[2]
PAGES = [ROOT / "README.md", *sorted((ROOT / "docs").glob("*.md"))]
ALL_PAGES = [*PAGES, *ROOT.glob("[CS]*.md"), *(ROOT / "docs" / "decisions").glob("*.md")]
FENCE = re.compile(r"^[ \t]*(?:```|~~~)[ \t]*(\S*)", re.MULTILINE)
BLOCK = re.compile(
    r"(<!-- needs (?P<server>dynamodb|postgres) -->\n+)?^```python\n(?P<code>.*?)^```$", re.MULTILINE | re.DOTALL
)
CONTINUES = re.compile(r"^<!-- continues (\S+) -->$", re.MULTILINE)
NOT_RUN = {"console", "javascript", "json", "toml"}  # commands for a shell, code for a browser, and policies for AWS

every_page = pytest.mark.parametrize("page", PAGES, ids=lambda page: page.name)


@every_page
def test_the_examples_run(
    page: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, request: pytest.FixtureRequest
) -> None:
    pages = [page]
    while found := CONTINUES.search(pages[0].read_text()):
        pages.insert(0, page.parent / found[1])
    servers = {block["server"] for each in pages for block in BLOCK.finditer(each.read_text())}
    if "dynamodb" in servers:
        endpoint = request.getfixturevalue("dynamodb_endpoint")
        monkeypatch.setenv("EVENTSRC_DYNAMODB_ENDPOINT", endpoint)
        monkeypatch.setenv("AWS_ENDPOINT_URL_DYNAMODB", endpoint)
        # An empty database for each page: DynamoDB Local keeps one per access key.
        monkeypatch.setenv("AWS_ACCESS_KEY_ID", secrets.token_hex(8))
        monkeypatch.setenv("AWS_SECRET_ACCESS_KEY", "local")
        monkeypatch.setenv("AWS_REGION", "eu-west-1")
        monkeypatch.setenv("AWS_DEFAULT_REGION", "eu-west-1")
    monkeypatch.chdir(tmp_path)
    with ExitStack() as stack:
        if "postgres" in servers:
            server = stack.enter_context(postgres_server())
            create_database(server, "ledger")
            for name, value in conninfo_to_dict(server).items():
                monkeypatch.setenv({"host": "PGHOST", "user": "PGUSER", "dbname": "PGDATABASE"}[name], str(value))
        module, runner = stack.enter_context(_module(page))
        for each in pages:
            for code in _compile_blocks(each):
                if code.co_flags & inspect.CO_COROUTINE:
                    runner.run(eval(code, module.__dict__))
                else:
                    exec(code, module.__dict__)


def _compile_blocks(page: Path) -> Iterator[CodeType]:
    text = page.read_text()
    for block in BLOCK.finditer(text):
        line = text.count("\n", 0, block.start("code"))
        source = "\n" * line + block["code"]  # a traceback then has the line of the page
        yield compile(source, str(page), "exec", ast.PyCF_ALLOW_TOP_LEVEL_AWAIT)


@contextmanager
def _module(page: Path) -> Iterator[tuple[ModuleType, asyncio.Runner]]:
    """Yield a real module, because annotations of handlers are resolved in its globals, and a loop for its awaits."""
    module = ModuleType(f"example_{page.stem}")
    sys.modules[module.__name__] = module
    try:
        with asyncio.Runner() as runner:
            yield module, runner
    finally:
        del sys.modules[module.__name__]


@every_page
def test_every_example_is_run_or_listed_as_not_run(page: Path) -> None:
    fences = FENCE.findall(text := page.read_text())
    assert fences[1::2] == [""] * (len(fences) // 2), "a block is not closed"
    to_run = [language for language in fences[::2] if language not in NOT_RUN]
    assert to_run == ["python"] * len(BLOCK.findall(text)), (
        "a block has an unknown language, or does not start at the start of a line"
    )


@pytest.mark.parametrize("page", ALL_PAGES, ids=lambda page: page.name)
def test_links_have_a_target(page: Path) -> None:
    for link in re.findall(r"\]\((?!https?://)([^)]+)\)", page.read_text()):
        path, _, anchor = link.partition("#")
        target = page.parent / path if path else page
        assert target.exists(), link
        if anchor:
            headings = re.findall(r"^#+ (.*)$", target.read_text(), re.MULTILINE)
            assert anchor in [re.sub(r"[^\w -]", "", heading.lower()).replace(" ", "-") for heading in headings], link


def test_every_error_is_explained() -> None:
    public = [getattr(eventsrc, name) for name in eventsrc.__all__]
    errors = {each.__name__ for each in public if isinstance(each, type) and issubclass(each, EventsrcError)}
    families = {each.__name__ for each in (EventsrcError, SourceError, StoredDataError, StoreError)}
    assert {name for row in table("operations.md", "Errors") for name in quoted(row[0])} == errors - families


@pytest.mark.parametrize(
    "door",
    [
        "",
        ".stores",
        ".processing",
        ".processes",
        ".publishing",
        ".messaging",
        ".testing",
        ".testing.contract",
        ".local",
        ".transactions",
    ],
)
def test_every_public_name_is_on_a_page(door: str) -> None:
    pages = "".join(page.read_text() for page in PAGES)
    public = import_module(f"eventsrc{door}").__all__
    assert [name for name in public if not re.search(rf"\b{name}\b", pages)] == []


@pytest.mark.parametrize(("store", "heading"), [(DynamoDBStore, "Settings of DynamoDBStore"), (SQLiteStore, "SQLite")])
def test_every_setting_is_listed_with_its_default(store: type[Any], heading: str) -> None:
    listed: dict[str, Any] = {}
    for names, default, _ in table("operations.md", heading):
        values = [ast.literal_eval(value) for value in quoted(default)] or [inspect.Parameter.empty]
        listed |= dict(zip(quoted(names), values * len(quoted(names)), strict=False))
    settings = inspect.signature(store).parameters
    assert listed == {name: setting.default for name, setting in settings.items() if name != "table"}


def test_the_listed_rights_are_those_of_the_calls_made() -> None:
    files = [path for path in (ROOT / "eventsrc").rglob("*.py") if "dynamodb" in str(path.relative_to(ROOT))]
    source = "".join(path.read_text() for path in files)
    calls = set(re.findall(r'(?:ask|_?send\w*|_call)\((?:client|store)?[, ]*"(\w+)"', source)) - {"TransactWriteItems"}
    page = (ROOT / "docs" / "operations.md").read_text()
    listed = set(re.findall(r"[\"`]dynamodb:(\w+)", page)) - {"LeadingKeys"}
    assert listed == calls | {"ConditionCheckItem"}  # an action of transactions
    shown = [msgspec.json.decode(each) for each in re.findall(r"^```json\n(.*?)^```$", page, re.MULTILINE | re.DOTALL)]
    place = {"region": "eu-west-1", "account": "123456789012"}
    tables = {"write": "ledger", "read": "ledger", "checkpoints": "read-models"}
    assert shown == [make_policy(table, [side], **place) for side, table in tables.items()]
    for grants in SIDES.values():
        assert {action for grant in grants for action in grant.actions} <= listed


def test_every_attribute_of_an_item_is_explained() -> None:
    commit, snapshot = table("storage.md", "DynamoDB: a commit"), table("storage.md", "DynamoDB: a snapshot")
    assert {name for row in [*commit, *snapshot] for name in quoted(row[0])} == {*NAMES, "PK", "SK"}
    assert {name for row in commit for name in quoted(row[2])} == {*Commit.__struct_fields__} - {"position"}
    assert {name for row in snapshot for name in quoted(row[2])} == {*Snapshot.__struct_fields__}


def test_every_column_of_sqlite_is_listed() -> None:
    listed = {row[0].strip("`"): quoted(row[1]) for row in table("storage.md", "SQLite")}
    with closing(sqlite3.connect(":memory:")) as connection:
        connection.executescript(SCHEMA)
        for name in ("log", "snapshots", "identity", "deleted", "effects", "commits"):
            columns = connection.execute("SELECT name FROM pragma_table_info(?)", (name,))
            assert listed.pop(name) == [column for (column,) in columns]
    assert not listed


def table(page: str, heading: str) -> list[list[str]]:
    """Return the rows of the first table below a heading."""
    section = (ROOT / "docs" / page).read_text().split(f"\n## {heading}\n")[1].split("\n## ")[0]
    lines = re.findall(r"^\|(.*)\|$", section.split("|\n\n")[0] + "|", re.MULTILINE)
    return [[cell.strip() for cell in re.split(r"(?<!\\)\|", line)] for line in lines[2:]]


def quoted(cell: str) -> list[str]:
    return re.findall(r"`([^`]+)`", cell)
