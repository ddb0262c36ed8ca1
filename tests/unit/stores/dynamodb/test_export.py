"""Exports to S3: each commit is delivered once, each stream in order, and a damaged export delivers nothing."""

from __future__ import annotations

import asyncio
import gzip
import json
import os
import shutil
import sqlite3
import threading
from base64 import b64encode
from collections.abc import Callable, Sequence
from contextlib import AsyncExitStack, aclosing, closing
from hashlib import md5
from pathlib import Path
from random import Random
from tempfile import TemporaryDirectory
from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from support.exports import TIME, Item, after, data_files, put, removed, there, write_export, write_manifest

from eventsrc import Batch, Commit, CorruptPayload, DynamoDBStore, Feed, Head, StoreClosed, StoreRejected
from eventsrc.stores import Export
from eventsrc.stores.dynamodb.export import data_file as lines
from eventsrc.stores.dynamodb.export import files, sorting
from eventsrc.stores.dynamodb.export.manifest import DataFile
from eventsrc.stores.dynamodb.layouts.snapshot_last import SnapshotLast
from eventsrc.testing.contract.samples import expect_same, make_commit, make_snapshot

SAMPLES = Path(__file__).parents[3] / "samples" / "export" / "AWSDynamoDB"
STORE = DynamoDBStore("ledger", tenant="acme")


@pytest.fixture(autouse=True)
def small_pages(monkeypatch: pytest.MonkeyPatch) -> None:
    """Make many pages of a few commits, and many parts of a few lines."""
    monkeypatch.setattr(sorting, "PAGE", 3)
    monkeypatch.setattr(files, "PART", 200)
    monkeypatch.setattr(lines, "_PIECE", 300)


def items(commits: Sequence[Commit], store: DynamoDBStore = STORE) -> list[Item]:
    return [store.items.from_commit(commit) for commit in commits]


def stream(name: str, versions: int) -> list[Commit]:
    return [
        make_commit(name, version, metadata={"user": "änn\n"}, payload=bytes([version]) * version)
        for version in range(1, versions + 1)
    ]


def snapshot(name: str) -> list[Item]:
    return [STORE.items.from_snapshot(make_snapshot(name, 1), SnapshotLast().key(1))]


async def batches(export: Export, after: str = "") -> list[Batch]:
    return [batch async for batch in export.feed(after=after)]


async def read_commits(export: Export) -> list[Commit]:
    async with export:
        return [commit for batch in await batches(export) for commit in batch.commits]


def threads() -> list[threading.Thread]:
    return [thread for thread in threading.enumerate() if "eventsrc-export" in thread.name]


@settings(max_examples=40, deadline=None)
@given(
    st.dictionaries(st.sampled_from(["a-1", "a-10", "a-2", "b-é"]), st.integers(1, 9)), st.integers(), st.integers(1, 5)
)
def test_each_stream_is_delivered_in_order_for_any_order_of_items(
    lengths: dict[str, int], seed: int, count: int
) -> None:
    streams = {name: stream(name, length) for name, length in lengths.items()}
    others = items(stream("a-1", 2), DynamoDBStore("ledger")) + items(
        stream("c-1", 2), DynamoDBStore("ledger", tenant="other")
    )
    found = [item for name in streams for item in items(streams[name]) + snapshot(name)]

    async def read(folder: Path) -> None:
        async with Export(STORE, folder) as export:
            all_of_them = await batches(export)
            assert [batch.caught_up for batch in all_of_them] == [False] * (len(all_of_them) - 1) + [True]
            commits = [commit for batch in all_of_them for commit in batch.commits]
            expect_same(commits, [c for name in sorted(streams, key=str.encode) for c in streams[name]], "delivered")
            for number, batch in enumerate(all_of_them, 1):
                rest = await batches(export, batch.checkpoint)
                so_far = [commit for each in (*all_of_them[:number], *rest) for commit in each.commits]
                expect_same(so_far, commits, "resumed")
                assert await export.remaining(batch.checkpoint) == sum(len(each.commits) for each in rest)

    with TemporaryDirectory() as root:
        folder = write_export(Path(root), there(found + others), files=count, random=Random(seed), prefix="2026/")
        asyncio.run(read(folder))


async def test_incremental_exports_continue_a_full_one(tmp_path: Path) -> None:
    a, b, gone = stream("a-1", 9), stream("b-1", 4), stream("c-1", 3)
    full = write_export(tmp_path, there(items([*a[:5], *gone])))
    first = write_export(tmp_path, put(items([*a[3:7], *b])), id="1-first", begin=after(-5), end=after(20))
    erased = [*removed(items(gone[:2])), *removed(items(gone[2:]), with_old=False), *removed(snapshot("a-1"))]
    second = write_export(tmp_path, put(items(a[7:])) + erased, id="2-second", begin=after(20), end=after(40))
    async with Export(STORE, full, first, second) as export:
        assert export.time == after(40)
        expect_same([commit for batch in await batches(export) for commit in batch.commits], [*a, *b], "delivered")
        assert [head async for page in export.heads() for head in page] == [Head("a-1", 9), Head("b-1", 4)]
    expect_same(await read_commits(Export(STORE, first)), [*a[3:7], *b], "read_commits of an incremental one alone")


@pytest.mark.parametrize(
    ("times", "reason"),
    [((None, None), "full"), ((None, 5), "ends at"), ((None, -20), "ends at"), ((0, 15, None), "full")],
)
async def test_exports_that_do_not_follow_each_other_are_refused(
    tmp_path: Path, times: Sequence[int | None], reason: str
) -> None:
    folders = [
        write_export(
            tmp_path,
            [],
            id=f"{number}-export",
            begin=None if begin is None else after(begin),
            end=after((begin or 0) + (15 if begin is not None else 0)),
        )
        for number, begin in enumerate(times)
    ]
    with pytest.raises(ValueError, match=reason):
        await Export(STORE, *folders).open()


async def test_exports_of_two_tables_are_refused(tmp_path: Path) -> None:
    full = write_export(tmp_path, [])
    other = write_export(
        tmp_path, [], id="1-other", begin=TIME, end=after(15), tableArn="arn:aws:dynamodb:x:1:table/other"
    )
    with pytest.raises(ValueError, match="other"):
        await Export(STORE, full, other).open()


async def test_an_export_is_a_feed(tmp_path: Path) -> None:
    a, b = stream("a-1", 5), stream("b-1", 2)
    async with Export(STORE, write_export(tmp_path, there(items([*a, *b])))) as export:
        assert isinstance(export, Feed)
        assert export.ordered
        checkpoints = [batch.checkpoint for batch in await batches(export)]
        assert await export.end() == checkpoints[-1]
        assert export.earliest(reversed(checkpoints)) == checkpoints[0]
        assert (export.earliest([]), export.earliest([*checkpoints, ""])) == ("", "")
        assert [await export.remaining(each) for each in ("", *checkpoints)] == [7, 4, 1, 0]
        [batch] = [batch async for batch in export.feed(after=checkpoints[-1], follow=True)]
        assert batch == Batch([], checkpoints[-1], True)


async def test_an_empty_export_is_caught_up(tmp_path: Path) -> None:
    async with Export(STORE, write_export(tmp_path, [])) as export:
        [batch] = await batches(export)
        assert (list(batch.commits), batch.caught_up, batch.checkpoint) == ([], True, await export.end())
        assert await batches(export, batch.checkpoint) == [batch]
        assert export.earliest([batch.checkpoint]) == ""


async def test_a_checkpoint_of_another_export_is_refused(tmp_path: Path) -> None:
    found = there(items(stream("a-1", 3)))
    full, other = (write_export(tmp_path, found, id=id) for id in ("0-full", "1-other"))
    async with Export(STORE, other) as export:
        checkpoint = await export.end()
    async with Export(STORE, full) as export:
        for wrong in (
            checkpoint,
            "7",
            "0-full",
            "0-full:",
            "0-full:a-1",
            "0-full:a-1@x",
            "0-full:a-1@²",
            f"0-full:a-1@{10**19}",
        ):
            with pytest.raises(ValueError, match="checkpoint"):
                await batches(export, wrong)
            with pytest.raises(ValueError, match="checkpoint"):
                export.earliest([wrong])


# Damaged exports, and their errors.


def change_data(change: Callable[[bytes], bytes]) -> Callable[[Path], None]:
    """Change a data file, so that its checksum differs from the manifest."""

    def damage(folder: Path) -> None:
        path = data_files(folder)[-1]
        path.write_bytes(change(path.read_bytes()))

    return damage


def replace_data(change: Callable[[bytes], bytes], *, items: int = 0) -> Callable[[Path], None]:
    """Replace a data file and its checksum in the manifest, and add `items` to the number there."""

    def damage(folder: Path) -> None:
        path = data_files(folder)[-1]
        old = path.read_bytes()
        path.write_bytes(change(old))
        entries = [json.loads(line) for line in (folder / "manifest-files.json").read_text().splitlines()]
        for entry in entries:
            if entry["dataFileS3Key"].endswith(path.name):
                entry["itemCount"] += items
                entry["md5Checksum"] = _md5(path.read_bytes())
        write_manifest(folder, "manifest-files", "".join(json.dumps(each) + "\n" for each in entries).encode())
        edit_summary(folder, itemCount=sum(each["itemCount"] for each in entries))

    return damage


def _md5(content: bytes) -> str:
    return b64encode(md5(content).digest()).decode()


def repacked(change: Callable[[bytes], bytes]) -> Callable[[bytes], bytes]:
    return lambda packed: gzip.compress(change(gzip.decompress(packed)))


def edit_summary(folder: Path, **changes: object) -> None:
    summary = json.loads((folder / "manifest-summary.json").read_text()) | changes
    write_manifest(folder, "manifest-summary", json.dumps(summary).encode())


def summary(**changes: object) -> Callable[[Path], None]:
    return lambda folder: edit_summary(folder, **changes)


def manifest(stem: str, change: Callable[[bytes], bytes], *, checksum: bool = True) -> Callable[[Path], None]:
    def damage(folder: Path) -> None:
        content = change((folder / f"{stem}.json").read_bytes())
        if checksum:
            write_manifest(folder, stem, content)
        else:
            (folder / f"{stem}.json").write_bytes(content)

    return damage


def without(name: str) -> Callable[[Path], None]:
    return lambda folder: (folder / name).unlink()


def folder_instead_of_file(folder: Path) -> None:
    path = data_files(folder)[-1]
    path.unlink()
    path.mkdir()


DAMAGES: dict[str, tuple[Callable[[Path], None], type[Exception], str]] = {
    "a bit of a file": (change_data(lambda data: data[:-9] + bytes([data[-9] ^ 1]) + data[-8:]), CorruptPayload, "gz"),
    "a file cut short": (change_data(lambda data: data[:-30]), CorruptPayload, "checksum"),
    "a file compressed again": (change_data(repacked(lambda data: data)), CorruptPayload, "checksum"),
    "an empty file": (change_data(lambda data: b""), CorruptPayload, "checksum"),
    "cut short before the checksum": (replace_data(lambda data: data[:-30]), CorruptPayload, "ends too early"),
    "not a gzip file": (replace_data(lambda data: b"{}"), CorruptPayload, "not a gzip file"),
    "more after the gzip": (replace_data(lambda data: data + b"{}"), CorruptPayload, "not a gzip file"),
    "an item too few": (replace_data(repacked(lambda data: data.partition(b"\n")[2])), CorruptPayload, "items"),
    "an item too many": (
        replace_data(repacked(lambda data: data + data[: data.index(b"\n")])),
        CorruptPayload,
        "items",
    ),
    "half a line": (replace_data(repacked(lambda data: data[:-20])), CorruptPayload, r"item \d of"),
    "a line without item": (replace_data(repacked(lambda data: b"{}\n" + data), items=1), CorruptPayload, "item 1 of"),
    "no line at all": (replace_data(repacked(lambda data: b"7\n" + data), items=1), CorruptPayload, "item 1 of"),
    "a missing file": (lambda folder: data_files(folder)[-1].unlink(), StoreRejected, "not copied completely"),
    "a folder in its place": (
        folder_instead_of_file,
        StoreRejected,
        "directory",
    ),
    "no summary": (without("manifest-summary.json"), StoreRejected, "not finished"),
    "no list of files": (without("manifest-files.json"), StoreRejected, "manifest-files.json"),
    "no checksum": (without("manifest-files.md5"), StoreRejected, "manifest-files.md5"),
    "a changed summary": (
        manifest("manifest-summary", lambda data: data.replace(b"2026", b"2027"), checksum=False),
        CorruptPayload,
        "manifest-summary",
    ),
    "fewer files": (
        manifest("manifest-files", lambda data: data[data.index(b"\n") + 1 :], checksum=False),
        CorruptPayload,
        "manifest-files",
    ),
    "fewer files, but the checksum": (
        manifest("manifest-files", lambda data: b"".join(data.splitlines(keepends=True)[:1])),
        CorruptPayload,
        "disagree",
    ),
    "another list": (manifest("manifest-files", lambda data: b"[]"), CorruptPayload, "manifest-files"),
    "another summary": (manifest("manifest-summary", lambda data: b"{}"), CorruptPayload, "manifest-summary"),
    "a file elsewhere": (
        manifest("manifest-files", lambda data: data.replace(b"AWSDynamoDB/", b"AWSDynamoDB/../../")),
        CorruptPayload,
        "outside the export",
    ),
    "a hidden file": (
        manifest("manifest-files", lambda data: data.replace(b"/data/", b"/.data/")),
        CorruptPayload,
        "outside the export",
    ),
    "a file with a name that no file can have": (
        manifest("manifest-files", lambda data: data.replace(b"/data/", b"/data/\\u0000")),
        CorruptPayload,
        "outside the export",
    ),
    "a file elsewhere on Windows": (
        manifest("manifest-files", lambda data: data.replace(b"/data/", b"/data\\\\..\\\\")),
        CorruptPayload,
        "outside the export",
    ),
    "not finished": (summary(exportStatus="IN_PROGRESS"), StoreRejected, "COMPLETED"),
    "ION": (summary(outputFormat="ION"), StoreRejected, "DYNAMODB_JSON"),
    "a new kind": (summary(exportType="DIFFERENTIAL_EXPORT"), StoreRejected, "DIFFERENTIAL_EXPORT"),
    "no time": (summary(exportTime=None), CorruptPayload, "time"),
    "a time of nowhere": (summary(exportTime="2026-01-14T10:20:00"), CorruptPayload, "manifest-summary"),
}


@pytest.mark.parametrize("kind", DAMAGES)
async def test_a_damaged_export_delivers_nothing(tmp_path: Path, kind: str) -> None:
    commits = stream("a-1", 9)
    folder = write_export(tmp_path, there(items(commits)), files=2)
    assert len(await read_commits(Export(STORE, folder))) == 9
    damage, error, reason = DAMAGES[kind]
    damage(folder)
    kept = tmp_path / "sorted"
    with pytest.raises(error, match=reason) as raised:
        async with Export(STORE, folder, sorted=kept):
            raise AssertionError("it was opened")
    assert "secret" not in str(raised.value)
    assert not threads()
    assert os.listdir(tmp_path) == ["AWSDynamoDB"]


async def test_a_line_longer_than_any_item_is_refused_before_it_fills_memory(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(lines, "_MAX_LINE", 2_000)
    folder = write_export(tmp_path, there(items([make_commit("a-1", 1, payload=b"x" * 1_000)])))
    assert len(await read_commits(Export(STORE, folder))) == 1
    replace_data(repacked(lambda data: data.replace(b'"acme', b'"' + b"x" * 100_000 + b"acme")))(folder)
    with pytest.raises(CorruptPayload, match="longer"):
        await read_commits(Export(STORE, folder))


def test_a_file_with_more_items_than_the_manifest_says_is_refused_before_it_fills_the_disk() -> None:
    read = lines.make_line_reader(STORE.items)
    [commit] = stream("a-1", 1)
    line = json.dumps(there(items([commit]))[0], default=lambda value: b64encode(value).decode()).encode() + b"\n"
    file = lines.DataFileParser(DataFile(2, "", "AWSDynamoDB/data/1.json.gz"), read)
    rows = file.feed(gzip.compress(line * 1_000))
    found = [row.commit for row in (next(rows), next(rows)) if isinstance(row.commit, Commit)]
    expect_same(found, [commit, commit], "delivered")
    with pytest.raises(CorruptPayload, match="more than 2 items"):
        next(rows)


async def test_files_of_several_gzip_streams_and_empty_files_are_read(tmp_path: Path) -> None:
    commits = stream("a-1", 9)
    folder = write_export(tmp_path, there(items(commits)), files=1)

    def split(packed: bytes) -> bytes:
        content = gzip.decompress(packed)
        return gzip.compress(content[:500]) + gzip.compress(b"") + gzip.compress(content[500:].rstrip(b"\n"))

    replace_data(split)(folder)
    entries = (folder / "manifest-files.json").read_text()
    empty = {"itemCount": 0, "md5Checksum": _md5(b""), "dataFileS3Key": f"AWSDynamoDB/{folder.name}/data/e.json.gz"}
    (folder / "data" / "e.json.gz").touch()
    write_manifest(folder, "manifest-files", (entries + json.dumps(empty) + "\n").encode())
    expect_same(await read_commits(Export(STORE, folder)), commits, "read_commits")


# Sorted files, and closing.


async def test_a_sorted_file_is_used_again(tmp_path: Path) -> None:
    commits = stream("a-1", 9)
    folder, kept = write_export(tmp_path, there(items(commits))), tmp_path / "sorted"
    async with Export(STORE, folder, sorted=kept) as export:
        first = await anext(export.feed())
    shutil.rmtree(folder / "data")
    async with Export(STORE, folder, sorted=str(kept)) as export:
        rest = [commit for batch in await batches(export, first.checkpoint) for commit in batch.commits]
    expect_same([*first.commits, *rest], commits, "resumed")
    other = write_export(tmp_path, there(items(commits)), id="1-other")
    for changed in (Export(STORE, other, sorted=kept), Export(DynamoDBStore("ledger"), folder, sorted=kept)):
        with pytest.raises(ValueError, match="another file"):
            await changed.open()
    with closing(sqlite3.connect(kept)) as file, file:
        file.execute("UPDATE commits SET body = x'c1'")
    async with Export(STORE, folder, sorted=kept) as export:
        with pytest.raises(StoreRejected, match="damaged"):
            await batches(export)
    kept.write_bytes(b"of another program" * 99)
    with pytest.raises(StoreRejected, match="not an SQLite database"):
        await Export(STORE, folder, sorted=kept).open()
    kept.unlink()
    with pytest.raises(StoreRejected, match="NoSuchKey"):
        await Export(STORE, folder, sorted=kept).open()
    with pytest.raises(StoreRejected, match="No such file"):
        await Export(STORE, folder, sorted=tmp_path / "no" / "folder").open()
    assert not threads()


async def test_a_copy_in_a_folder_of_another_name_is_read(tmp_path: Path) -> None:
    commits = stream("a-1", 3)
    folder = write_export(tmp_path, there(items(commits)), prefix="AWSDynamoDB/x/")
    expect_same(await read_commits(Export(STORE, folder.rename(tmp_path / "copy"))), commits, "read_commits")


async def test_a_closed_export_raises_also_in_running_feeds(tmp_path: Path) -> None:
    export = Export(STORE, write_export(tmp_path, there(items(stream("a-1", 9)))))
    with pytest.raises(StoreClosed):
        await batches(export)
    async with export:
        with pytest.raises(StoreClosed, match="open already"):
            await export.open()
        reading = export.feed()
        await anext(reading)
    with pytest.raises(StoreClosed):
        await anext(reading)
    with pytest.raises(StoreClosed):
        _ = export.time
    await export.aclose()
    assert not threads()
    async with export, aclosing(export.feed()) as again:
        assert (await anext(again)).commits


async def test_a_cancelled_sort_leaves_no_files_or_threads(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    numbers = "WITH RECURSIVE all_of_them(n) AS (SELECT 1 UNION ALL SELECT n + 1 FROM all_of_them)"
    endless = f"INSERT INTO commits SELECT n, 1, x'' FROM ({numbers} SELECT n FROM all_of_them)"
    begun = threading.Event()
    sort = sorting.SortedCommits._sort

    def sort_endlessly(self: Any) -> None:
        begun.set()
        sort(self)

    monkeypatch.setattr(sorting, "_SORT", endless)
    monkeypatch.setattr(sorting.SortedCommits, "_sort", sort_endlessly)
    folder = write_export(tmp_path, there(items(stream("a-1", 9))))
    opening = asyncio.create_task(Export(STORE, folder, sorted=tmp_path / "sorted").open())
    await asyncio.to_thread(begun.wait)
    opening.cancel()
    with pytest.raises(asyncio.CancelledError):
        await opening
    assert not threads()
    assert os.listdir(tmp_path) == ["AWSDynamoDB"]


async def test_a_cancellation_while_s3_is_closed_leaves_no_threads(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    files = Export._open_files
    leaving = asyncio.Event()

    async def leave() -> None:
        leaving.set()
        await asyncio.Future()

    async def with_slow_s3(self: Export, stack: AsyncExitStack) -> Any:
        stack.push_async_callback(leave)
        return await files(self, stack)

    monkeypatch.setattr(Export, "_open_files", with_slow_s3)
    export = Export(STORE, write_export(tmp_path, there(items(stream("a-1", 9)))))
    opening = asyncio.create_task(export.open())
    await leaving.wait()
    opening.cancel()
    with pytest.raises(asyncio.CancelledError):
        await opening
    assert not threads()


def test_folders_that_are_not_exports_raise_value_error() -> None:
    with pytest.raises(ValueError, match="folder"):
        Export(STORE)
    for url in ("s3://", "s3://bucket", "s3:///key"):
        with pytest.raises(ValueError, match="s3://bucket"):
            Export(STORE, url)


async def test_the_samples_are_read() -> None:
    folders = SAMPLES / "01767225600000-0a1b2c3d", SAMPLES / "01767229200000-4e5f6a7b"
    commits = await read_commits(Export(STORE, *folders))
    [commit] = commits  # the first one was removed in the second export
    assert (commit.stream, commit.version, commit.metadata) == ("account-a-1", 2, {"user": "ann"})
    [commit] = await read_commits(Export(STORE, folders[0]))
    assert (commit.stream, commit.version, commit.metadata) == ("account-a-1", 1, {})


async def test_one_damaged_item_does_not_keep_an_export_from_being_read(tmp_path: Path) -> None:
    """Its feed delivers what comes before it and then raises; or reports it, and delivers everything else."""
    a, b = stream("a-1", 5), stream("b-1", 2)
    lines = items([*a, *b])
    lines[2]["t"] = {"S": "secret"}
    foreign = {"PK": {"S": "acme|settings"}, "SK": {"N": "7"}, "what": {"S": "secret"}}
    async with Export(STORE, write_export(tmp_path, there([*lines, foreign]))) as export:
        seen: list[Batch] = []
        with pytest.raises(CorruptPayload) as raised:
            await collect(export, seen)
        assert (raised.value.stream, raised.value.version) == ("a-1", 3)
        assert "secret" not in str(raised.value)
        expect_same([commit for batch in seen for commit in batch.commits], a[:2], "before it")
        with pytest.raises(CorruptPayload):
            await anext(export.feed(after=seen[-1].checkpoint))
        reported = [batch async for batch in export.feed(report_damaged=True)]
        named = [(each.stream, each.version) for batch in reported for each in batch.damaged]
        assert named == [("a-1", 3), ("settings", 7)]
        expect_same([c for batch in reported for c in batch.commits], [*a[:2], *a[3:], *b], "reported")
        rest = [batch async for batch in export.feed(after=seen[-1].checkpoint, report_damaged=True)]
        expect_same([c for batch in rest for c in batch.commits], [*a[3:], *b], "resumed")
        of_b = [batch async for batch in export.feed(categories=("b",))]  # the damaged items are of other categories
        expect_same([c for batch in of_b for c in batch.commits], b, "the category b")
        assert of_b[-1].checkpoint == reported[-1].checkpoint


async def collect(export: Export, seen: list[Batch]) -> None:
    async for batch in export.feed():
        seen.append(batch)  # noqa: PERF401  # what came before an error is kept
