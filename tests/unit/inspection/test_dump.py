"""Dumps: each attribute of each commit arrives, in order, or the file is refused, or the commit is named."""

from __future__ import annotations

import io
import re
import sqlite3
from collections.abc import AsyncGenerator
from contextlib import aclosing, closing
from hashlib import sha256
from pathlib import Path
from typing import Any

import msgspec
import pytest
from hypothesis import given as given_examples
from hypothesis import settings
from hypothesis import strategies as st
from support.maps import caused

from eventsrc import Commit, DumpDamaged, MemoryStore, SQLiteStore, Store
from eventsrc.inspection.dump import MAX_PROBLEMS, export_commits, import_commits, read_dump
from eventsrc.stores import Feed
from eventsrc.testing.contract.samples import ALL_SORTS

EVERYTHING: dict[str, Any] = {
    "correlation_id": f"request {ALL_SORTS}",
    "command_id": f"command {ALL_SORTS}",
    "command_digest": bytes(range(256))[-16:],
    "metadata": {"actor": f"ann {ALL_SORTS}", ALL_SORTS: ""},
}


async def fill(store: Store) -> None:
    await store.append(caused("order-7@1", **EVERYTHING))
    await store.append(caused("item-計測@1", "order-7@1.0", f"foreign {ALL_SORTS}", tags=["a", "b", "a"], ms=-5))
    await store.append(caused("order-7@2", tags=["order.confirmed"], ms=40, correlation_id=None))
    await store.append(caused("order-7@3", tags=["order.confirmed"], ms=40, correlation_id=""))
    for number in range(200):
        await store.append(caused(f"many-{number % 70}@{number // 70 + 1}", tags=["x" * number or "y"]))


async def dump_of(store: Store) -> bytes:
    file = io.BytesIO()
    await export_commits(store, file)
    return file.getvalue()


async def read_all(store: Store) -> list[Commit]:
    assert isinstance(store, Feed)
    async with aclosing(store.feed(follow=False)) as batches:
        return [commit async for batch in batches for commit in batch.commits]


@pytest.fixture
async def source(tmp_path: Path) -> AsyncGenerator[SQLiteStore]:
    async with SQLiteStore(tmp_path / "source.db") as store:
        yield store


@pytest.fixture
async def target(tmp_path: Path) -> AsyncGenerator[SQLiteStore]:
    async with SQLiteStore(tmp_path / "target.db") as store:
        yield store


async def test_all_arrives_with_its_position(source: SQLiteStore, target: SQLiteStore) -> None:
    await fill(source)
    file = io.BytesIO()
    exported = await export_commits(source, file)
    assert (exported.commits, exported.damaged, exported.store) == (204, 0, await source.identity())
    file.seek(0)
    would = await import_commits(target, file, dry_run=True)
    assert (would.appended, await read_all(target)) == (204, [])
    file.seek(0)
    found = await import_commits(target, file)
    assert (found.appended, found.skipped, found.refused, found.positions_kept) == (204, 0, 0, True)
    assert await read_all(target) == await read_all(source)  # with their positions
    file.seek(0)
    again = await import_commits(target, file)
    assert (again.appended, again.skipped, again.problems, again.positions_kept) == (0, 204, (), None)
    lines = file.getvalue().splitlines()
    assert len(lines) == 206
    assert msgspec.json.decode(lines[1])["metadata"] == EVERYTHING["metadata"]


@settings(max_examples=40)
@given_examples(st.lists(st.tuples(st.sampled_from("abc"), st.booleans(), st.text(max_size=9)), max_size=12))
async def test_positions_are_kept_in_any_order_of_streams(rows: list[tuple[str, bool, str]]) -> None:
    async with MemoryStore() as source, MemoryStore() as target:
        versions = dict.fromkeys("abc", 0)
        for stream, is_caused, text in rows:
            versions[stream] += 1
            causes = [text] if is_caused else []
            await source.append(caused(f"{stream}-1@{versions[stream]}", *causes, metadata={"x": text}))
        await import_commits(target, io.BytesIO(await dump_of(source)))
        assert await read_all(target) == await read_all(source)


async def test_positions_differ_if_the_target_has_other_commits(source: SQLiteStore, target: SQLiteStore) -> None:
    await fill(source)
    await target.append(caused("other-1@1"))
    found = await import_commits(target, io.BytesIO(await dump_of(source)))
    assert (found.appended, found.positions_kept) == (204, False)
    unplaced = [msgspec.structs.replace(each, position=None) for each in await read_all(target)]
    assert unplaced[1:] == [msgspec.structs.replace(each, position=None) for each in await read_all(source)]


async def small_dump() -> bytes:
    async with MemoryStore() as store:
        await store.append(caused("a-1@1"))
        await store.append(caused("b-1@1", "a-1@1.0"))
        return await dump_of(store)


class Pipe(io.BytesIO):
    """A file that can be read once."""

    def seekable(self) -> bool:
        return False


async def test_a_flipped_bit_in_any_line_is_refused(target: SQLiteStore) -> None:
    dump = await small_dump()
    start = 0
    for number, line in enumerate(dump.splitlines(keepends=True), 1):
        for place in range(len(line)):
            damaged = bytearray(dump)
            damaged[start + place] ^= 1 << place % 8
            with pytest.raises(DumpDamaged) as caught:
                await import_commits(target, io.BytesIO(bytes(damaged)))
            assert caught.value.line in (number, number + 1)
        start += len(line)
    assert await read_all(target) == []


async def test_a_truncated_file_is_refused_wherever_it_ends(target: SQLiteStore) -> None:
    dump = await small_dump()
    for size in range(len(dump)):
        with pytest.raises(DumpDamaged):
            await import_commits(target, io.BytesIO(dump[:size]))
    assert await read_all(target) == []
    first, second, third, end = dump.splitlines(keepends=True)
    wrong = [first + third + end, second + third + end, first + third + second + end, dump + first, dump + b"\n", end]
    for text in wrong:
        with pytest.raises(DumpDamaged):
            await import_commits(target, io.BytesIO(text))
    with pytest.raises(DumpDamaged, match="line 4 of the dump: the file ends after 2 commits"):
        await import_commits(target, io.BytesIO(first + second + third))
    with pytest.raises(DumpDamaged, match="line 1 of the dump: it is not a line of a dump"):
        await import_commits(target, io.BytesIO(b"SQLite format 3\0"))


async def test_from_a_pipe_the_lines_before_a_damaged_one_are_imported_and_resumed(target: SQLiteStore) -> None:
    async with MemoryStore() as store:
        for number in range(100):
            await store.append(caused(f"a-{number}@1"))
        dump = await dump_of(store)
    with pytest.raises(DumpDamaged):
        await import_commits(target, io.BytesIO(dump[: len(dump) * 9 // 10]))
    assert await read_all(target) == []  # a file is checked to its end first
    with pytest.raises(DumpDamaged):
        await import_commits(target, Pipe(dump[: len(dump) * 9 // 10]))
    there = len(await read_all(target))
    assert 0 < there < 100
    found = await import_commits(target, Pipe(dump))
    assert (found.skipped, found.appended) == (there, 100 - there)


async def test_a_conflict_is_named_and_nothing_is_overwritten(source: SQLiteStore, target: SQLiteStore) -> None:
    commits = [caused(f"{stream}-1@{version}") for version in (1, 2, 3) for stream in "abc"]
    for commit in commits:
        await source.append(commit)
    await target.append(commits[0])
    await target.append(other := caused("a-1@2"))
    changed = msgspec.structs.replace(commits[1], metadata={"altered": "yes"})  # with the same id
    await target.append(changed)
    dump = await dump_of(source)
    dry = await import_commits(target, io.BytesIO(dump), dry_run=True)
    found = await import_commits(target, io.BytesIO(dump))
    assert (found.appended, found.skipped, found.refused) == (3, 1, 5)
    assert (dry.appended, dry.skipped, dry.refused, dry.problems) == (3, 1, 5, found.problems)
    assert found.problems == ("b-1@1 is another commit in the target", "a-1@2 is another commit in the target")
    ids = [(f"{each.stream}@{each.version}", each.id) for each in await read_all(target)]
    assert ids[:3] == [("a-1@1", commits[0].id), ("a-1@2", other.id), ("b-1@1", commits[1].id)]
    assert [id for id, _ in ids[3:]] == ["c-1@1", "c-1@2", "c-1@3"]


async def test_damaged_commits_are_named_in_their_places(
    source: SQLiteStore, target: SQLiteStore, tmp_path: Path
) -> None:
    for id in ("a-1@1", "b-1@1", "c-1@1", "a-1@2", "b-1@2"):
        given: dict[str, Any] = {"payload": b"damaged"} if id == "b-1@1" else {}
        await source.append(caused(id, **given))
    with closing(sqlite3.connect(tmp_path / "source.db")) as connection:
        connection.execute("UPDATE log SET record = x'00' WHERE position = 4")
        connection.commit()
    file = io.BytesIO()
    exported = await export_commits(source, file)
    assert (exported.commits, exported.damaged) == (3, 2)
    assert [each.partition(":")[0] for each in exported.problems] == ["a-1@2", "b-1@1"]
    lines = [msgspec.json.decode(line) for line in file.getvalue().splitlines()]
    assert [line["line"] for line in lines] == ["header", "commit", "damaged", "commit", "damaged", "commit", "end"]
    file.seek(0)
    found = await import_commits(target, file)
    assert (found.appended, found.refused) == (2, 3)
    assert [each.partition(":")[0] for each in found.problems] == [
        "b-1@1 was damaged at the export",
        "a-1@2 was damaged at the export",
        "b-1@2 does not follow the last version of its stream in the target, 0",
    ]


async def test_a_payload_that_is_not_one_is_refused(target: SQLiteStore) -> None:
    lines = (await small_dump()).splitlines(keepends=True)
    body = re.sub(rb'"payload":"[^"]*"', b'"payload":"ZGFtYWdlZA=="', lines[1].rpartition(b',"checksum"')[0]) + b"}"
    checksum = sha256(body).hexdigest()[:16]  # of an exporter that does not check
    lines[1] = body[:-1] + f',"checksum":"{checksum}"}}\n'.encode()
    with pytest.raises(DumpDamaged, match="line 2 of the dump: a-1@1: wrong checksum"):
        await import_commits(target, io.BytesIO(b"".join(lines)))


async def test_an_import_into_a_store_of_others_ends_early(source: SQLiteStore, target: SQLiteStore) -> None:
    for number in range(MAX_PROBLEMS + 200):
        await source.append(caused(f"a-{number}@1"))
        await target.append(caused(f"a-{number}@1"))
    found = await import_commits(target, io.BytesIO(await dump_of(source)))
    assert found.appended == 0
    assert MAX_PROBLEMS <= len(found.problems) < MAX_PROBLEMS + 200
    assert found.problems[-1] == "there are too many problems: the rest of the file was not imported"


async def test_an_empty_store_is_a_dump() -> None:
    async with MemoryStore() as store:
        dump = await dump_of(store)
        assert len(dump.splitlines()) == 2
        found = await import_commits(store, io.BytesIO(dump))
        assert (found.appended, found.skipped, found.positions_kept) == (0, 0, None)
        with pytest.raises(TypeError, match="has no feed"):
            await export_commits(object(), io.BytesIO())  # type: ignore[arg-type]


async def test_commits_are_read_as_they_are_needed() -> None:
    async with MemoryStore() as store:
        for number in range(3_000):
            await store.append(caused(f"a-{number}@1", metadata={"x": "y" * 2_000}))
        file = io.BytesIO(await dump_of(store))
    async with aclosing(read_dump(file)) as lines:
        await anext(lines)
        assert file.tell() < len(file.getvalue()) / 4
