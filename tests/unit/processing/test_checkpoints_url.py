"""Checkpoints from URLs."""

from __future__ import annotations

from pathlib import Path

import pytest

from eventsrc.processing import DynamoDBCheckpoints, MemoryCheckpoints, SQLiteCheckpoints, open_checkpoints


def test_memory_urls() -> None:
    assert isinstance(open_checkpoints("memory://"), MemoryCheckpoints)
    assert isinstance(open_checkpoints("memory:"), MemoryCheckpoints)


@pytest.mark.parametrize("absolute", [True, False])
async def test_a_url_with_a_file(absolute: bool, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    async with open_checkpoints(f"sqlite:///{tmp_path}/my%20model.db" if absolute else "sqlite:///my%20model.db") as it:
        assert isinstance(it, SQLiteCheckpoints)
        await it.workers.heartbeat("w-1")
    async with SQLiteCheckpoints(tmp_path / "my model.db") as found:
        assert await found.workers.beats() == {"w-1": 1}


def test_a_url_with_a_table_and_all_options(monkeypatch: pytest.MonkeyPatch) -> None:
    assert isinstance(open_checkpoints("dynamodb://models?region=eu-west-1"), DynamoDBCheckpoints)
    seen: list[tuple[str, dict[str, object]]] = []

    def init(self: DynamoDBCheckpoints, table: str, **options: object) -> None:
        seen.append((table, options))

    monkeypatch.setattr(DynamoDBCheckpoints, "__init__", init)
    open_checkpoints("dynamodb://Models")
    open_checkpoints("dynamodb://models/?region=eu-west-1&endpoint=http%3A%2F%2Flocalhost%3A8000&plain_http=true")
    plain = {"region_name": None, "endpoint_url": None, "plain_http": False}
    local = {"region_name": "eu-west-1", "endpoint_url": "http://localhost:8000", "plain_http": True}
    assert seen == [("Models", plain), ("models", local)]


@pytest.mark.parametrize(
    ("url", "part"),
    [
        *(
            (url, r"memory://, sqlite:///.* or dynamodb://")
            for url in ("", "model.db", "redis://x", "sqlite:", "memory:x")
        ),
        *(
            (url, r"sqlite:///file\.db or dynamodb://table")
            for url in ("sqlite://model.db", "dynamodb://", "memory://a")
        ),
        ("dynamodb://models?tenant=acme", "unknown option tenant"),
        ("sqlite:///model.db?deadline=3", "unknown option deadline"),
        ("dynamodb://models?region=a&region=b", "twice: region"),
        ("sqlite:///model.db#1", "#fragment"),
        ("sqlite:///:memory:", "MemoryCheckpoints"),
        ("dynamodb://a b", "not a table name"),
    ],
)
def test_the_error_for_an_invalid_url_names_the_wrong_part(url: str, part: str) -> None:
    with pytest.raises(ValueError, match=part):
        open_checkpoints(url)


@pytest.mark.parametrize("url", [None, b"memory://", Path("model.db")])
def test_only_texts_are_urls(url: object) -> None:
    with pytest.raises(TypeError, match=f"the URL is of type {type(url).__name__}; write a text"):
        open_checkpoints(url)  # type: ignore[arg-type]


@pytest.mark.parametrize("address", ["//me:s3cret@host", "//models?endpoint=http%3A%2F%2Fme%3As3cret%40host"])
def test_an_error_quotes_no_password(address: str) -> None:
    with pytest.raises(ValueError, match="unknown option size") as raised:
        open_checkpoints(f"dynamodb:{address}{'&' if '?' in address else '?'}size=3")
    assert "s3cret" not in str(raised.value)
    assert "host" in str(raised.value)
