"""Dumps between SQLite and DynamoDB Local, by the command line, and of an import that is killed."""

from __future__ import annotations

import asyncio
import io
import json
import subprocess
import sys
from collections.abc import AsyncGenerator
from contextlib import aclosing
from pathlib import Path
from typing import Any

import msgspec
import pytest
from support.maps import caused
from support.tables import fresh_name, store_on

from eventsrc import Commit, SQLiteStore
from eventsrc.command_line.main import main
from eventsrc.inspection.dump import export_commits, import_commits
from eventsrc.stores import Feed
from eventsrc.stores.feed import read_stored
from eventsrc.testing.contract.samples import ALL_SORTS


async def commits_of(store: Feed) -> list[Commit]:
    """Return all commits by stream and version, without positions."""
    async with aclosing(read_stored(store)) as batches:
        found = [msgspec.structs.replace(each, position=None) async for batch in batches for each in batch.commits]
    return sorted(found, key=lambda commit: (commit.stream, commit.version))


async def fill(store: SQLiteStore) -> None:
    everything: dict[str, Any] = {
        "correlation_id": ALL_SORTS,
        "command_id": ALL_SORTS,
        "command_digest": b"\0\xff" * 8,
        "metadata": {"actor": ALL_SORTS, ALL_SORTS: ""},
    }
    await store.append(caused("order-7@1", ALL_SORTS, "order-6@1.0", tags=["a", "b"], **everything))
    for number in range(300):
        await store.append(caused(f"item-{number % 60}@{number // 60 + 1}", "order-7@1.0", ms=number))


@pytest.fixture
async def source(tmp_path: Path) -> AsyncGenerator[SQLiteStore]:
    async with SQLiteStore(tmp_path / "source.db") as store:
        await fill(store)
        yield store


async def test_from_sqlite_to_dynamodb_and_back(source: SQLiteStore, dynamodb_endpoint: str, tmp_path: Path) -> None:
    there, back = io.BytesIO(), io.BytesIO()
    await export_commits(source, there)
    there.seek(0)
    async with store_on(dynamodb_endpoint, fresh_name()) as table, SQLiteStore(tmp_path / "back.db") as returned:
        await table.create_table()
        found = await import_commits(table, there)
        assert (found.appended, found.refused, found.positions_kept) == (301, 0, None)
        assert await commits_of(table) == await commits_of(source)
        there.seek(0)
        assert (await import_commits(table, there)).skipped == 301
        exported = await export_commits(table, back)
        assert (exported.commits, exported.store) == (301, await table.identity())
        back.seek(0)
        assert (await import_commits(returned, back)).appended == 301
        assert await commits_of(returned) == await commits_of(source)


async def test_a_killed_import_is_resumed(source: SQLiteStore, tmp_path: Path) -> None:
    for number in range(400):
        await source.append(caused(f"many-{number}@1", metadata={"x": "y" * 10_000}))
    dump = io.BytesIO()
    await export_commits(source, dump)
    command = [
        sys.executable,
        "-m",
        "eventsrc",
        "import",
        "-",
        "--yes",
        "--store",
        f"sqlite:///{tmp_path / 'target.db'}",
    ]
    async with SQLiteStore(tmp_path / "target.db") as target:
        process = await asyncio.create_subprocess_exec(*command, stdin=subprocess.PIPE)
        assert process.stdin is not None
        process.stdin.write(dump.getvalue()[:-1_000_000])  # it waits for the rest
        async with asyncio.timeout(60), aclosing(target.feed()) as batches:
            async for batch in batches:
                if batch.commits:
                    break
        process.kill()
        assert await process.wait() == -9
        there = await target.last_position()
        assert 0 < there < 701
        dump.seek(0)
        found = await import_commits(target, dump)
        assert (found.skipped, found.appended, found.positions_kept) == (there, 701 - there, True)
        assert await commits_of(target) == await commits_of(source)


def test_the_verbs(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]) -> None:
    monkeypatch.chdir(tmp_path)

    async def fill_files() -> None:
        async with (
            SQLiteStore("shop.db") as shop,
            SQLiteStore("damaged.db") as damaged,
            SQLiteStore("other.db") as other,
        ):
            await fill(shop)
            await damaged.append(caused("a-1@1", payload=b"damaged"))
            await other.append(caused("order-7@1"))

    asyncio.run(fill_files())

    def run(*arguments: str) -> tuple[int, str, str]:
        code = main(arguments)
        captured = capsys.readouterr()
        return code, captured.out, captured.err

    assert run("export", "--store", "sqlite:///shop.db", "shop.ndjson") == (0, "exported 301 commits\n", "")
    assert not (tmp_path / "shop.ndjson.part").exists()
    to_copy = ("import", "--store", "sqlite:///copy.db", "shop.ndjson")
    assert run(*to_copy, "--dry-run")[0] == 2
    assert not (tmp_path / "copy.db").exists()
    line = "appended 301 commits, 0 there already, 0 refused, with the positions of the source\n"
    code, _, errors = run(*to_copy)
    assert (code, "give --yes" in errors, (tmp_path / "copy.db").exists()) == (2, True, False)
    assert run(*to_copy, "--yes") == (0, line, "")
    assert run(*to_copy, "--dry-run") == (0, "would append 0 commits, 301 there already, 0 refused\n", "")
    code, text, errors = run("import", "--store", "sqlite:///other.db", "shop.ndjson", "--yes", "--json")
    found = json.loads(text)
    assert (code, found["appended"], found["refused"], found["positions_kept"]) == (1, 300, 1, True)
    assert errors == "eventsrc: order-7@1 is another commit in the target\n"

    code, text, errors = run("export", "--store", "sqlite:///damaged.db", "damaged.ndjson")
    assert (code, text) == (1, "exported 0 commits, except 1 damaged\n")
    assert errors.startswith("eventsrc: damaged: a-1@1: wrong checksum")
    code, _, errors = run("import", "--store", "sqlite:///copy.db", "damaged.ndjson", "--yes")
    assert (code, "a-1@1 was damaged at the export" in errors) == (1, True)

    (tmp_path / "cut.ndjson").write_bytes((tmp_path / "shop.ndjson").read_bytes()[:5_000])
    code, text, errors = run("import", "--store", "sqlite:///new.db", "cut.ndjson", "--yes")
    assert (code, text, "of the dump: " in errors) == (1, "", True)
    assert run("import", "--store", "sqlite:///new.db", "missing.ndjson", "--yes")[0] == 2
    assert run("export", "--store", "sqlite:///shop.db", "missing/shop.ndjson")[0] == 2
    two = ("--store", "sqlite:///shop.db", "--store", "sqlite:///other.db")
    assert "there are several stores (shop, other)" in run("export", *two, "x.ndjson")[2]


def test_a_pipe_from_one_store_to_another(tmp_path: Path) -> None:
    async def fill_file() -> None:
        async with SQLiteStore(tmp_path / "shop.db") as shop:
            await fill(shop)

    asyncio.run(fill_file())
    eventsrc = [sys.executable, "-m", "eventsrc"]
    exporting = subprocess.Popen(
        [*eventsrc, "export", "--store", "sqlite:///shop.db", "-"],
        cwd=tmp_path,
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
    )
    importing = subprocess.run(
        [*eventsrc, "import", "--store", "sqlite:///copy.db", "--yes", "-"],
        cwd=tmp_path,
        stdin=exporting.stdout,
        capture_output=True,
        check=True,
    )
    assert importing.stdout.startswith(b"appended 301 commits, ")
    assert exporting.communicate()[1] == b"exported 301 commits\n"
    assert exporting.returncode == 0
