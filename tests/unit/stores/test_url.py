"""Stores from URLs."""

from __future__ import annotations

from pathlib import Path

import pytest

from eventsrc import Commit, DynamoDBStore, MemoryStore, SQLiteStore, open_store

COMMIT = Commit(stream="s-1", version=1, id=bytes(16), time=1, events=1, tags=("t",), payload=b"")


def test_memory_urls() -> None:
    assert isinstance(open_store("memory://"), MemoryStore)


@pytest.mark.parametrize(
    ("url", "file"),
    [
        ("sqlite:///events.db", "events.db"),
        ("sqlite:///sub/events.db", "sub/events.db"),
        ("sqlite:///e", "e"),
        ("sqlite:///my%20events%3F.db", "my events?.db"),
        ("sqlite:///%C3%BC.db", "ü.db"),
    ],
)
async def test_a_url_with_a_relative_file(url: str, file: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    (tmp_path / "sub").mkdir()
    async with open_store(url) as store:
        assert isinstance(store, SQLiteStore)
        await store.append(COMMIT)
    assert (tmp_path / file).is_file()


async def test_a_url_with_an_absolute_file(tmp_path: Path) -> None:
    async with open_store(f"sqlite:///{tmp_path}/events.db") as store:
        await store.append(COMMIT)
    assert (tmp_path / "events.db").is_file()


def test_a_url_with_a_table_and_all_options(monkeypatch: pytest.MonkeyPatch) -> None:
    seen: list[tuple[str, dict[str, object]]] = []

    def init(self: DynamoDBStore, table: str, **options: object) -> None:
        seen.append((table, options))

    monkeypatch.setattr(DynamoDBStore, "__init__", init)
    open_store("dynamodb://Events")
    open_store("dynamodb://events/?region=eu-west-1&endpoint=http%3A%2F%2Flocalhost%3A8000&tenant=acme&layout=x")
    open_store("dynamodb://events?plain_http=true")
    plain = {"region_name": None, "endpoint_url": None, "tenant": None, "plain_http": False, "layout": "snapshot-last"}
    local = {"region_name": "eu-west-1", "endpoint_url": "http://localhost:8000", "tenant": "acme", "layout": "x"}
    assert seen == [("Events", plain), ("events", {**plain, **local}), ("events", {**plain, "plain_http": True})]


def test_a_url_with_a_table_creates_a_store() -> None:
    assert isinstance(open_store("dynamodb://events?region=eu-west-1&tenant=acme"), DynamoDBStore)


@pytest.mark.parametrize(
    "url",
    [
        *("", "events.db", "/events.db", "postgres://events", "sqlite", "memory", "file:///events.db", "SQLITE"),
        *(
            "memory://here",
            "dynamodb://events?plain_http=maybe",
            "memory:///path",
            "sqlite://",
            "sqlite:///",
            "sqlite://events.db",
            "sqlite://host/events.db",
        ),
        *("dynamodb://", "dynamodb:///events", "dynamodb://events/more"),
    ],
)
def test_the_error_for_an_invalid_url_shows_valid_ones(url: str) -> None:
    with pytest.raises(ValueError, match=r"memory://, sqlite:///.* or dynamodb://") as raised:
        open_store(url)
    assert repr(url) in str(raised.value)


@pytest.mark.parametrize(
    ("url", "part"),
    [
        ("memory://?size=3", "unknown option size"),
        ("sqlite:///events.db?mode=ro", "unknown option mode"),
        ("dynamodb://events?regoin=eu", "unknown option regoin"),
        ("dynamodb://events?layout=sideways", "layout"),
        ("dynamodb://events?region=eu-west-1&region=eu-west-2", "region"),
        ("dynamodb://events?region", "region"),
        ("sqlite:///events.db#1", "#fragment"),
        ("dynamodb://events#1", "#fragment"),
        ("sqlite:///:memory:", "MemoryStore"),
    ],
)
def test_the_error_for_a_wrong_part_names_it(url: str, part: str) -> None:
    with pytest.raises(ValueError, match=part):
        open_store(url)
