"""Exports of a real table, read from S3 and from a copy, and the live feed that continues after them.

DynamoDB Local cannot export, so the files are written here from what is in its table. S3 is the server of moto.
"""

from __future__ import annotations

from collections.abc import AsyncIterator, Iterator, Sequence
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import Any

import pytest
from moto.server import ThreadedMotoServer
from support.exports import Line, put, there, write_export
from support.proxy import HALF_ANSWER, LOST, PASS, Answer, Proxy, proxy_to
from support.tables import fresh_name, session, store_on

from eventsrc import Commit, CorruptPayload, DynamoDBStore, FeedTrimmed, StoreRejected, StoreUnavailable
from eventsrc.stores import Export
from eventsrc.stores.dynamodb.export import files
from eventsrc.stores.dynamodb.feed import checkpoint
from eventsrc.stores.gate import Gate
from eventsrc.testing.contract.samples import expect_same, fill, make_commit, make_snapshot, read_all

BUSY = Answer(503, b"<Error><Code>SlowDown</Code><Message>scripted</Message></Error>")
FAILED = Answer(500, b"<Error><Code>InternalError</Code><Message>scripted</Message></Error>")
REFUSED = Answer(403, b"<Error><Code>AccessDenied</Code><Message>scripted</Message></Error>")


@pytest.fixture(scope="module")
def s3() -> Iterator[str]:
    server = ThreadedMotoServer(ip_address="127.0.0.1", port=0, verbose=False)
    server.start()
    try:
        yield "http://{}:{}".format(*server.get_host_and_port())
    finally:
        server.stop()


@pytest.fixture
async def proxy(s3: str) -> AsyncIterator[Proxy]:
    async with proxy_to(s3) as proxy:
        yield proxy


@pytest.fixture
async def store(dynamodb_endpoint: str) -> AsyncIterator[DynamoDBStore]:
    async with store_on(dynamodb_endpoint, fresh_name(), tenant="acme", layout="interleaved") as store:
        await store.create_table(stream=True)
        yield store


async def filled(store: DynamoDBStore) -> list[Commit]:
    """Store commits of several streams, with snapshots between them, and commits of another tenant."""
    commits: list[Commit] = []
    for number, length in enumerate((1, 12, 40)):
        commits += await fill(store, f"a-{number}", length, size=2_000)
        await store.put_snapshot(make_snapshot(f"a-{number}", 1))
    async with store_on(store.table.connection.endpoint_url or "", store.table.name, tenant="other") as other:
        await fill(other, "a-1", 5)
    return commits


async def items_of(store: DynamoDBStore) -> list[dict[str, Any]]:
    items: list[dict[str, Any]] = []
    async with session().client("dynamodb", endpoint_url=store.table.connection.endpoint_url) as client:
        async for page in client.get_paginator("scan").paginate(TableName=store.table.name):
            items += page["Items"]
    return items


def content_of(root: Path) -> dict[str, bytes]:
    return {str(path.relative_to(root)): path.read_bytes() for path in root.rglob("*") if path.is_file()}


async def upload(s3: str, root: Path, prefix: str = "") -> str:
    """Upload the folder to a new bucket, below a prefix."""
    bucket = fresh_name()
    async with session().client("s3", endpoint_url=s3) as client:
        await client.create_bucket(Bucket=bucket)
        for key, body in content_of(root).items():
            await client.put_object(Bucket=bucket, Key=prefix + key, Body=body)
    return f"s3://{bucket}/{prefix}".removesuffix("/")


async def read_commits(export: Export) -> list[Commit]:
    async with export:
        return [commit async for batch in export.feed() for commit in batch.commits]


@pytest.fixture
def small_parts(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(files, "PART", 5_000)


@pytest.mark.usefixtures("small_parts")
async def test_exports_have_all_commits_of_the_table(s3: str, store: DynamoDBStore, tmp_path: Path) -> None:
    commits = await filled(store)
    before = await items_of(store)
    later = await more(store)
    news: list[Line] = put([item for item in await items_of(store) if item not in before])
    now = datetime.now(UTC)
    full = write_export(tmp_path, there(before), end=now, prefix="2026/")
    incremental = write_export(
        tmp_path, news, id="1-later", begin=now, end=now + timedelta(minutes=15), prefix="2026/", files=2
    )
    expect_same(await read_commits(Export(store, full)), commits, "from a folder")
    bucket = await upload(s3, tmp_path)
    both = [f"{bucket}/{folder.relative_to(tmp_path)}" for folder in (full, incremental)]
    everything = [commit for number in range(4) for commit in await read_all(store, f"a-{number}")]
    assert len(everything) == len(commits) + len(later)
    expect_same(await read_commits(Export(store, f"{both[0]}/", both[1], endpoint_url=s3)), everything, "from S3")
    expect_same(await read_commits(Export(store, full, both[1], endpoint_url=s3)), everything, "from both")


async def more(store: DynamoDBStore) -> Sequence[Commit]:
    commits = [make_commit("a-0", 2), make_commit("a-1", 13), make_commit("a-1", 14), make_commit("a-3", 1)]
    for commit in commits:
        await store.append(commit)
    return commits


async def test_the_live_feed_continues_after_an_export(
    store: DynamoDBStore, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(checkpoint, "ENABLE_DELAY", 0)
    await filled(store)
    folder = write_export(tmp_path, there(await items_of(store)), end=datetime.now(UTC) + timedelta(seconds=1))
    await more(store)
    handled: list[Commit] = []
    seen: dict[str, int] = {}
    gate = Gate(store, seen)

    async def handle(commits: Sequence[Commit]) -> None:
        for hint in commits:
            for commit in await gate.due(hint):
                handled.append(commit)
                gate.handled(commit)

    async with Export(store, folder) as export:
        async for batch in export.feed():
            await handle(batch.commits)
        begin = export.checkpoint
    assert seen == {"a-0": 1, "a-1": 12, "a-2": 40}
    async for batch in store.feed(after=begin, follow=False):
        await handle(batch.commits)
    assert len(handled) == sum(seen.values())
    for name, version in {"a-0": 2, "a-1": 14, "a-2": 40, "a-3": 1}.items():
        assert seen[name] == version
        expect_same([each for each in handled if each.stream == name], await read_all(store, name), name)
    assert store.earliest([begin, begin]) == begin


@pytest.mark.parametrize(("ago", "reason"), [(timedelta(hours=24), "24 hours"), (timedelta(minutes=5), "new stream")])
async def test_an_export_older_than_the_stream_raises_feed_trimmed(
    store: DynamoDBStore, tmp_path: Path, ago: timedelta, reason: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    if reason == "24 hours":
        monkeypatch.setattr(checkpoint, "_enabled_since", lambda stream: 0.0)  # long before
    async with Export(store, write_export(tmp_path, [], end=datetime.now(UTC) - ago)) as export:
        with pytest.raises(FeedTrimmed, match=reason):
            [batch async for batch in store.feed(after=export.checkpoint, follow=False)]


# What S3 does.


@pytest.fixture
async def exported(s3: str, store: DynamoDBStore, tmp_path: Path) -> tuple[str, list[Commit]]:
    commits = await fill(store, "a-1", 12, size=2_000)
    folder = write_export(tmp_path, there(await items_of(store)))
    return f"{await upload(s3, tmp_path)}/{folder.relative_to(tmp_path)}", commits


@pytest.mark.usefixtures("small_parts")
async def test_interrupted_reads_are_resumed(
    proxy: Proxy, store: DynamoDBStore, exported: tuple[str, list[Commit]]
) -> None:
    url, commits = exported
    proxy.faults = [BUSY, LOST, PASS, HALF_ANSWER, PASS, PASS, PASS, PASS, HALF_ANSWER, FAILED]
    expect_same(await read_commits(Export(store, url, endpoint_url=proxy.url)), commits, "read_commits")
    assert not proxy.faults


async def test_files_as_long_as_one_part_are_read_completely(
    s3: str, store: DynamoDBStore, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    folder = write_export(tmp_path, [], files=1)
    monkeypatch.setattr(files, "PART", (folder / "manifest-files.md5").stat().st_size)
    assert (
        await read_commits(
            Export(store, f"{await upload(s3, tmp_path)}/{folder.relative_to(tmp_path)}", endpoint_url=s3)
        )
        == []
    )


@pytest.mark.parametrize("prefix", ["2026//", "./"])
async def test_prefixes_are_not_paths(s3: str, store: DynamoDBStore, tmp_path: Path, prefix: str) -> None:
    commits = await fill(store, "a-1", 3)
    now = datetime.now(UTC)
    folder = write_export(tmp_path, put(await items_of(store)), begin=now, end=now + timedelta(minutes=15))
    url = f"{await upload(s3, tmp_path, prefix)}/{folder.relative_to(tmp_path)}"
    expect_same(await read_commits(Export(store, url, endpoint_url=s3)), commits, "read_commits")


async def test_s3_without_a_response_is_unavailable(
    proxy: Proxy, store: DynamoDBStore, exported: tuple[str, list[Commit]], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(files, "_TRIES", 3)
    proxy.then = LOST
    with pytest.raises(StoreUnavailable, match=r"manifest-summary.*3 times"):
        await Export(store, exported[0], endpoint_url=proxy.url).open()
    assert len(proxy.heads) >= 3  # the HTTP library sends some of them twice


async def test_refusals_of_s3_are_rejected(
    proxy: Proxy, store: DynamoDBStore, exported: tuple[str, list[Commit]]
) -> None:
    url, _ = exported
    proxy.faults = [PASS, PASS, REFUSED]
    with pytest.raises(StoreRejected, match="s3:GetObject"):
        await Export(store, url, endpoint_url=proxy.url).open()
    bucket, _, rest = url.removeprefix("s3://").partition("/")
    for missing, code in ((f"s3://{bucket}/no/{rest}", "NoSuchKey"), (f"s3://no-{bucket}/{rest}", "NoSuchBucket")):
        with pytest.raises(StoreRejected, match=code):
            await Export(store, missing, endpoint_url=proxy.url).open()
    with pytest.raises(StoreRejected, match="ParamValidationError"):
        await Export(store, f"s3://no bucket/{rest}", endpoint_url=proxy.url).open()
    with pytest.raises(StoreRejected, match="plain_http"):
        await Export(store, url, endpoint_url="http://192.0.2.1:9000").open()


async def test_a_damaged_object_is_corrupt(s3: str, store: DynamoDBStore, exported: tuple[str, list[Commit]]) -> None:
    bucket, _, rest = exported[0].removeprefix("s3://").partition("/")
    async with session().client("s3", endpoint_url=s3) as client:
        listed = await client.list_objects_v2(Bucket=bucket, Prefix=f"{rest}/data/")
        key = max(listed["Contents"], key=lambda each: each["Size"])["Key"]
        body = await (await client.get_object(Bucket=bucket, Key=key))["Body"].read()
        await client.put_object(Bucket=bucket, Key=key, Body=body[:-1])
    with pytest.raises(CorruptPayload, match="checksum"):
        await Export(store, exported[0], endpoint_url=s3).open()
