"""TraceMiddleware in FastAPI and Litestar: what a request commits has its ids."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator, Callable
from typing import Any

import httpx
import pytest
from fastapi import FastAPI
from litestar import Litestar, Request, get
from litestar.middleware import DefineMiddleware
from support.bank import Account
from support.ledger import commits_of

from eventsrc import Commit, MemoryStore, Repository, current_trace, trace
from eventsrc.tracing import TraceMiddleware, name_service

PARENT = "00-4bf92f3577b34da6a3ce929d0e0e4736-00f067aa0ba902b7-01"


def actor(scope: Any) -> str | None:
    return dict(scope["headers"]).get(b"x-user", b"").decode() or None


def make_fastapi(open_account: Callable[[str], Any]) -> Any:
    app = FastAPI()
    app.add_middleware(TraceMiddleware, actor=actor)

    @app.get("/open/{id}")
    async def handle(id: str) -> None:
        await open_account(id)

    return app


def make_litestar(open_account: Callable[[str], Any]) -> Any:
    @get("/open/{id:str}")
    async def handle(request: Request[Any, Any, Any]) -> None:
        await open_account(request.path_params["id"])

    return Litestar([handle], middleware=[DefineMiddleware(TraceMiddleware, actor=actor)])


class Service:
    def __init__(self, store: MemoryStore, make: Callable[[Callable[[str], Any]], Any]) -> None:
        self._store, self._accounts = store, Repository(Account, store)
        self._client = httpx.AsyncClient(transport=httpx.ASGITransport(make(self._open)), base_url="http://service")

    async def _open(self, id: str) -> None:
        await self._accounts.save(Account.open(id, owner="ann"))

    async def open(self, id: str, *headers: tuple[str, str]) -> tuple[httpx.Response, Commit]:
        response = await self._client.get(f"/open/{id}", headers=list(headers))
        assert response.status_code == 200
        return response, next(each for each in await commits_of(self._store) if each.stream == f"account-{id}")


@pytest.fixture(params=[make_fastapi, make_litestar])
async def service(request: pytest.FixtureRequest) -> AsyncIterator[Service]:
    async with MemoryStore() as store:
        yield Service(store, request.param)


@pytest.mark.parametrize(
    ("headers", "expected"),
    [
        ([("X-Correlation-ID", "c-1"), ("X-Request-ID", "r-1"), ("traceparent", PARENT)], "c-1"),
        ([("x-request-id", "r-1"), ("traceparent", PARENT)], "r-1"),
        ([("traceparent", PARENT)], PARENT.split("-")[1]),
    ],
)
async def test_a_commit_has_the_correlation_id_of_its_request(
    service: Service, headers: list[tuple[str, str]], expected: str
) -> None:
    response, commit = await service.open("a", *headers)
    assert commit.correlation_id == response.headers["x-correlation-id"] == expected
    assert commit.metadata == {"traceparent": PARENT}


async def test_requests_at_the_same_time_have_ids_of_their_own(service: Service) -> None:
    answers = await asyncio.gather(*[service.open(str(number)) for number in range(20)])
    assert all(response.headers["x-correlation-id"] == commit.correlation_id for response, commit in answers)
    assert len({commit.correlation_id for _, commit in answers}) == 20
    assert current_trace().correlation_id is None


@pytest.mark.parametrize(
    "headers",
    [
        [("X-Correlation-ID", "x" * 129)],
        [("X-Correlation-ID", "two words")],
        [("X-Correlation-ID", "")],
        [("X-Correlation-ID", "c-1"), ("X-Correlation-ID", "c-2")],
        [("traceparent", "00-" + "0" * 32 + "-00f067aa0ba902b7-01")],
        [("traceparent", "ff" + PARENT[2:])],
        [("traceparent", PARENT.upper())],
        [("traceparent", PARENT + "-extra")],
    ],
)
async def test_headers_that_are_not_valid_are_ignored(service: Service, headers: list[tuple[str, str]]) -> None:
    _, commit = await service.open("a", *headers)
    assert commit.correlation_id is not None
    assert len(commit.correlation_id) == 36
    assert commit.metadata == {}


async def test_the_actor_and_the_service_are_stored(service: Service, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("eventsrc.trace_context._stamps", {})
    name_service("billing")
    name_service("orders")
    _, commit = await service.open("a", ("X-User", "ann"))
    assert commit.metadata == {"service": "orders", "actor": "ann"}
    with trace(metadata={"service": "other"}):
        _, commit = await service.open("b")
    assert commit.metadata == {"service": "other"}


async def test_a_trace_around_the_app_is_continued(service: Service) -> None:
    with trace("outer"):
        _, commit = await service.open("a")
    assert commit.correlation_id == "outer"


@pytest.mark.parametrize("id", ["evil\r\nSet-Cookie: a=b", "\u65e5\u672c", "two words"])
async def test_an_id_that_no_header_can_hold_is_stored_and_not_answered(service: Service, id: str) -> None:
    with trace(id):
        response, commit = await service.open("a")
    assert commit.correlation_id == id
    assert "x-correlation-id" not in response.headers
    assert "set-cookie" not in response.headers


async def test_a_header_of_the_app_is_kept_and_other_scopes_pass() -> None:
    seen: list[Any] = []

    async def app(scope: Any, receive: Any, send: Any) -> None:
        seen.append(scope["type"])
        if scope["type"] == "http":
            await send({"type": "http.response.start", "status": 200, "headers": [(b"X-Correlation-Id", b"mine")]})

    async def send(message: Any) -> None:
        seen.append(message["headers"])

    traced: Any = TraceMiddleware(app)
    await traced({"type": "lifespan"}, None, send)
    await traced({"type": "http", "headers": []}, None, send)
    assert seen == ["lifespan", "http", [(b"X-Correlation-Id", b"mine")]]
