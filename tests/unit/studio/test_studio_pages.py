"""The studio as a browser without JavaScript sees it, and what it refuses."""

from __future__ import annotations

import asyncio
import logging
import re
import sqlite3
from collections.abc import AsyncIterator
from datetime import UTC, datetime
from decimal import Decimal
from enum import Enum
from html import unescape
from pathlib import Path
from typing import Any

import httpx
import pytest
from fastapi import FastAPI
from support.bank import Account, Deposited, Opened, Withdrawn
from support.ledger import InSQLite, until
from support.program import open_program

from eventsrc import Aggregate, Event, MemoryStore, Repository, SQLiteStore
from eventsrc.inspection import App
from eventsrc.processing import Processor
from eventsrc.studio import Studio

HERE = {"sec-fetch-site": "same-origin"}


@pytest.fixture
async def program(tmp_path: Path) -> AsyncIterator[App]:
    async with open_program(tmp_path) as app:
        yield app


def client(asgi: Any, **options: Any) -> httpx.AsyncClient:
    return httpx.AsyncClient(transport=httpx.ASGITransport(app=asgi), base_url="http://testserver", **options)


async def get(studio: Any, path: str, code: int = 200) -> str:
    async with client(studio) as browser:
        answer = await browser.get(path)
    assert answer.status_code == code, answer.text
    return answer.text


PAGES = [
    "/",
    "/streams",
    "/stream?name=account-a-1",
    "/stream?name=account-a-1&part=test",
    "/trace?id=request-9",
    "/map",
    "/live",
    "/processors",
    "/processor?name=in-sqlite@1",
    "/events",
]


@pytest.mark.parametrize("path", PAGES)
async def test_each_page_is_there_and_no_other_page_can_read_or_frame_it(program: App, path: str) -> None:
    async with client(Studio(program)) as browser:
        answer = await browser.get(path)
    assert answer.status_code == 200
    assert "script-src 'self'" in answer.headers["content-security-policy"]
    assert "frame-ancestors 'none'" in answer.headers["content-security-policy"]
    assert answer.headers["cross-origin-resource-policy"] == "same-origin"
    assert "access-control-allow-origin" not in answer.headers
    assert re.findall(r"<script(?![^>]*src=)|\son\w+=", answer.text) == []


async def test_a_stream_shows_its_state_at_each_version_and_what_changed(program: App) -> None:
    studio = Studio(program)
    second = await get(studio, "/stream?name=account-a-1")
    assert "State at version 2" in second
    assert re.search(r'class="changed"><td>balance</td><td>66</td><td>0</td>', second)
    assert 'aria-current="true"' in second
    assert "caused by" in second
    first = await get(studio, "/stream?name=account-a-1&version=1")
    assert "State at version 1" in first
    assert "by ann" in first
    assert "<html" not in await get(studio, "/stream?name=account-a-1&version=1&part=state")


@pytest.mark.parametrize("version", ["0", "x", "-1", "9" * 400])
async def test_a_version_that_is_none_is_explained(program: App, version: str) -> None:
    assert "is not a version" in await get(Studio(program), f"/stream?name=account-a-1&version={version}", 404)


async def test_a_version_that_is_not_there_is_not_another_one(program: App) -> None:
    page = await get(Studio(program), "/stream?name=account-a-1&version=99", 404)
    assert "there is no version 99: bank has 2 of them" in page


@pytest.mark.parametrize(
    ("text", "goes_to"),
    [
        ("account-a-1", "/stream?name=account-a-1&store=bank"),
        ("account-a-1@2.0", "/stream?name=account-a-1&store=bank&version=2"),
        ("request-9", "/trace?id=request-9"),
        ("", "/"),
    ],
)
async def test_an_id_is_found_whatever_it_names(program: App, text: str, goes_to: str) -> None:
    async with client(Studio(program)) as browser:
        answer = await browser.get("/find", params={"q": text})
    assert (answer.status_code, answer.headers["location"]) == (303, goes_to)


async def test_an_unknown_id_says_where_it_was_looked_for(program: App) -> None:
    studio = Studio(program)
    assert "it has no commit in bank" in await get(studio, "/stream?name=account-b-9", 404)
    assert "nobody" in await get(studio, "/trace?id=nobody", 404)
    assert "in-sqlite@1" in await get(studio, "/processor?name=nobody", 404)
    assert "Not Found" in await get(studio, "/nothing", 404)
    for path in ("/stream", "/stream?name=a b", "/trace", "/processor", "/processor?name="):
        await get(studio, path, 404)


async def test_many_streams_are_listed_in_pages_and_by_category(program: App) -> None:
    accounts = Repository(Account, program.stores["bank"])
    for number in range(230):
        await accounts.save(Account.open(f"b-{number:03}", owner="bob"))
    studio = Studio(program)
    first = await get(studio, "/streams?category=account&prefix=account-b-")
    assert "230 streams" in first
    assert "account-b-199" in first
    assert "account-b-200" not in first
    more = re.search(r'href="(\?[^"]*after=[^"]*)"', first)
    assert more is not None
    rest = await get(studio, f"/streams{more[1].replace('&amp;', '&')}")
    assert "account-b-229" in rest
    assert "account-b-199<" not in rest


async def test_a_test_of_real_events_passes(program: App) -> None:
    page = await get(Studio(program), "/stream?name=account-a-1&part=test")
    text = re.search(r"<pre[^>]*>(.*?)</pre>", page, re.DOTALL)
    assert text is not None
    source = unescape(text[1])
    found: dict[str, Any] = {}
    exec(source.partition("def test_command")[0], found)
    found["test_state"]()
    assert "Opened(owner='ann')" in source
    assert ".when(...).then(\n        Deposited(amount=66),\n    )" in source


class Color(Enum):
    RED = "red"


class Painted(Event, tag="door.painted"):
    color: Color
    at: datetime
    price: Decimal
    hinges: tuple[Color, ...]
    parts: dict[str, list[Color]]


class Door(Aggregate, tag="door"):
    color: Color = Color.RED
    at: datetime | None = None
    price: Decimal = Decimal(0)

    def apply_painted(self, event: Painted) -> None:
        self.color, self.at, self.price = event.color, event.at, event.price


async def test_a_test_of_values_of_other_types_passes() -> None:
    async with MemoryStore() as store:
        door = Door(id="1")
        at = datetime(2026, 1, 31, 12, tzinfo=UTC)
        door.record(
            Painted(color=Color.RED, at=at, price=Decimal("1.50"), hinges=(Color.RED,), parts={"a": [Color.RED]})
        )
        await Repository(Door, store).save(door)
        page = await get(Studio(App({"doors": store}, aggregates=[Door])), "/stream?name=door-1&part=test")
    text = re.search(r"<pre[^>]*>(.*?)</pre>", page, re.DOTALL)
    assert text is not None
    found: dict[str, Any] = {}
    exec(unescape(text[1]).partition("def test_command")[0], found)
    found["test_state"]()


async def test_a_trace_is_drawn_and_leads_to_its_streams(program: App) -> None:
    page = await get(Studio(program), "/trace?id=account-a-1@2")
    assert "<svg" in page
    assert (
        page.count('href="/stream?name=account-a-1&amp;store=bank&amp;version=2"') == 2
    )  # from the lanes and from the steps
    assert "failed" in page
    assert "amount=66" in page
    assert "account.deposited" in await get(Studio(program), "/trace?id=request-9&part=text")
    assert (await get(Studio(program), "/trace?id=request-9&part=page")).startswith("<!DOCTYPE html>")


async def test_a_part_of_a_trace_is_what_led_to_a_version_or_what_followed(program: App) -> None:
    studio = Studio(program)
    assert 'href="/trace?only=effects&amp;id=account-a-1%401"' in await get(studio, "/stream?name=account-a-1")
    effects = await get(studio, "/trace?only=effects&id=account-a-1@2")
    assert "What followed from account-a-1@2" in effects
    assert "account.opened" not in effects
    causes = await get(studio, "/trace?only=causes&id=account-a-1@1.0&by=stream")
    assert "account.opened" in causes
    assert "account.deposited" not in causes
    assert ">account-a-1</text>" in causes  # the name of a lane


async def test_the_map_says_which_types_cause_which(program: App) -> None:
    for path in ("/map", "/map?period=hour"):
        page = await get(Studio(program), path)
        assert "<svg" in page
        assert re.search(r"<tr><td>account.opened</td><td>account.deposited</td><td[^>]*>1</td>", page)


async def test_events_say_who_records_and_who_handles_them(program: App) -> None:
    page = await get(Studio(program), "/events")
    assert "recorded by Account" in page
    assert "handled by in-sqlite@1.handle_movement" in page
    assert "not published" in page


async def test_a_parked_stream_shows_the_error_the_commit_and_the_state_before(program: App) -> None:
    page = await get(Studio(program), "/processor?name=in-sqlite@1")
    assert "66 is refused" in page
    assert "State before it" in page
    assert "Retry" not in page  # it only shows


async def test_without_write_nothing_can_be_changed(program: App) -> None:
    async with client(Studio(program), headers=HERE) as browser:
        for action in ("retry", "skip"):
            path = f"/processor/{action}?name=in-sqlite@1&stream=account-a-1&version=2"
            assert (await browser.get(path)).status_code == 403
            assert (await browser.post(path, data={"typed": "account-a-1@2", "reason": "x"})).status_code == 403
        assert (
            await browser.post("/processor/rebuild?name=in-sqlite@1", data={"typed": "in-sqlite@1"})
        ).status_code == 403
    assert len(await program.processors[0].parked()) == 1


async def test_a_change_asks_first_and_is_logged_with_the_actor(program: App, caplog: pytest.LogCaptureFixture) -> None:
    studio = Studio(program, write=True, actor=lambda scope: "olga")
    path = "/processor/skip?name=in-sqlite@1&stream=account-a-1&version=2"
    with caplog.at_level(logging.WARNING, "eventsrc"):
        async with client(studio, headers=HERE) as browser:
            assert "Type <b>account-a-1@2</b> to confirm" in (await browser.get(path)).text
            for form in ({"typed": "account", "reason": "x"}, {"typed": "account-a-1@2", "reason": " "}, {}):
                assert (await browser.post(path, data=form)).status_code == 400
            assert len(await program.processors[0].parked()) == 1
            assert "olga" not in caplog.text
            answer = await browser.post(path, data={"typed": "account-a-1@2", "reason": "paid back"})
    assert (answer.status_code, answer.headers["location"]) == (303, "/processor?name=in-sqlite%401")
    assert await program.processors[0].parked() == []
    [skipped] = await program.processors[0].checkpoints.skipped("in-sqlite@1")
    assert skipped.reason == "paid back (olga)"
    assert "olga asks processor in-sqlite@1 to skip account-a-1@2" in caplog.text


async def test_a_retry_that_fails_again_says_so(program: App) -> None:
    async with client(Studio(program, write=True), headers=HERE) as browser:
        path = "/processor/retry?name=in-sqlite@1&stream=account-a-1&version=2"
        answer = await browser.post(path, data={"typed": "account-a-1@2"})
    assert answer.status_code == 409
    assert "account-a-1 is parked at version 2" in answer.text


async def test_a_skip_that_is_sent_twice_skips_one_commit(program: App) -> None:
    """Also if the next commit fails, which the first answer says."""
    await Repository(Account, program.stores["bank"]).execute("a-1", Account.deposit, 66)
    path, form = (
        "/processor/skip?name=in-sqlite@1&stream=account-a-1&version=2",
        {"typed": "account-a-1@2", "reason": "x"},
    )
    async with client(Studio(program, write=True), headers=HERE) as browser:
        first = await browser.post(path, data=form)
        assert first.status_code == 409
        assert "account-a-1@2 was skipped. account-a-1 is parked at version 3" in first.text
        assert (await browser.post(path, data=form)).status_code == 303  # it is done already
        assert (await browser.get(path)).status_code == 404
    assert [each.version for each in await program.processors[0].checkpoints.skipped("in-sqlite@1")] == [2]
    assert [each.version for each in await program.processors[0].parked()] == [3]


async def test_the_active_version_is_not_rebuilt(program: App) -> None:
    studio = Studio(program, write=True)
    assert "Rebuild" not in await get(studio, "/processor?name=in-sqlite@1")
    async with client(studio, headers=HERE) as browser:
        for answer in (
            await browser.get("/processor/rebuild?name=in-sqlite@1"),
            await browser.post("/processor/rebuild?name=in-sqlite@1", data={"typed": "in-sqlite@1"}),
        ):
            assert "to build it again, raise its version" in answer.text


class Second(InSQLite, tag="in-sqlite"):
    version = 2


async def test_a_new_version_is_rebuilt_with_progress(program: App) -> None:
    new = Processor(Second(), program.stores["bank"], program.processors[0].checkpoints)
    studio = Studio(program._replace(processors=[new]), write=True)
    async with client(studio, headers=HERE) as browser:
        asked = await browser.get("/processor/rebuild?name=in-sqlite@2")
        assert "in-sqlite@2 handles 1 of 1 commits, while in-sqlite@1 continues, and then replaces it." in asked.text
        assert (
            await browser.post("/processor/rebuild?name=in-sqlite@2", data={"typed": "in-sqlite@2"})
        ).status_code == 303
        await until(lambda: not new.pipeline.running and new.pipeline.progress.commits)
        async with asyncio.timeout(20):
            while "It is done" not in (await browser.get("/processor?name=in-sqlite@2")).text:  # noqa: ASYNC110
                await asyncio.sleep(0.01)
    assert await new.checkpoints.active("in-sqlite") == 2
    await studio.aclose()


async def test_a_rebuild_under_way_ends_with_the_studio_and_the_old_version_continues(program: App) -> None:
    reached = asyncio.Event()

    class Slow(InSQLite, tag="in-sqlite"):
        version = 2

        async def apply(self, runs: Any) -> Any:
            reached.set()
            await asyncio.Event().wait()

    new = Processor(Slow(), program.stores["bank"], program.processors[0].checkpoints)
    studio = Studio(program._replace(processors=[new]), write=True)
    async with client(studio, headers=HERE) as browser:
        await browser.post("/processor/rebuild?name=in-sqlite@2", data={"typed": "in-sqlite@2"})
        await asyncio.wait_for(reached.wait(), 20)
        assert (
            await browser.post("/processor/rebuild?name=in-sqlite@2", data={"typed": "in-sqlite@2"})
        ).status_code == 409
    await asyncio.wait_for(studio.aclose(), 20)
    assert not new.pipeline.running
    assert await new.checkpoints.active("in-sqlite") == 1


async def test_a_class_that_fails_at_an_event_hides_nothing_else(program: App) -> None:
    class Broken(Aggregate, tag="account"):
        owner: str = ""

        def apply_opened(self, event: Opened) -> None:
            self.owner = event.owner

        def apply_movement(self, event: Deposited | Withdrawn) -> None:
            raise RuntimeError(f"secret {event.amount}")

    broken = program._replace(aggregates=[Broken])
    page = await get(Studio(broken), "/stream?name=account-a-1")
    assert "RuntimeError: secret 66" in page
    assert "account.deposited" in page
    assert "66 is refused" in await get(Studio(broken), "/processor?name=in-sqlite@1")
    assert "RuntimeError" in await get(Studio(broken), "/stream?name=account-a-1&part=test", 404)
    masked = Studio(broken, mask=lambda kind, fields: {})
    assert "secret" not in await get(masked, "/stream?name=account-a-1")
    assert "secret" not in await get(masked, "/stream?name=account-a-1&part=test", 404)


async def test_a_mask_that_fails_shows_nothing(program: App) -> None:
    def fail(kind: str, fields: dict[str, Any]) -> dict[str, Any]:
        raise KeyError(fields)

    for path in ("/stream?name=account-a-1", "/trace?id=request-9", "/processor?name=in-sqlite@1"):
        page = await get(Studio(program, mask=fail), path)
        assert "the mask has failed" in page
        assert "amount" not in page


async def test_streams_of_one_name_in_two_stores_are_told_apart(program: App, tmp_path: Path) -> None:
    async with SQLiteStore(tmp_path / "other.db") as other:
        account = Account.open("a-1", owner="bob")
        for amount in (1, 2, 3):
            account.deposit(amount)
            await Repository(Account, other).save(account)
        studio = Studio(program._replace(stores={**program.stores, "other": other}))
        first = await get(studio, "/stream?name=account-a-1&store=other&version=2")
        assert "&#34;bob&#34;" in first
        assert "&#34;ann&#34;" not in first
        assert "in other, 3 versions" in await get(studio, "/stream?name=account-a-1&version=3")
        async with client(studio) as browser:
            found = await browser.get("/find?q=account-a-1@3.0")
        assert found.headers["location"] == "/stream?name=account-a-1&store=other&version=3"
        assert "no store is named" in await get(studio, "/stream?name=account-a-1&store=x", 404)


async def test_many_events_of_one_commit_are_counted(program: App) -> None:
    account = Account.open("many", owner="ann")
    for amount in range(299):
        account.deposit(amount)
    await Repository(Account, program.stores["bank"]).save(account)
    page = await get(Studio(program), "/stream?name=account-many")
    assert "and 200 more events" in page


@pytest.mark.parametrize(
    "headers",
    [{}, {"origin": "http://evil.example"}, {"sec-fetch-site": "cross-site", "origin": "http://testserver"}],
)
async def test_another_page_cannot_send_a_change(program: App, headers: dict[str, str]) -> None:
    async with client(Studio(program, write=True), headers=headers) as browser:
        path = "/processor/skip?name=in-sqlite@1&stream=account-a-1&version=2"
        answer = await browser.post(path, data={"typed": "account-a-1@2", "reason": "x"})
    assert answer.status_code == 403
    assert len(await program.processors[0].parked()) == 1


async def test_an_old_browser_names_its_origin(program: App) -> None:
    async with client(Studio(program, write=True), headers={"origin": "http://testserver"}) as browser:
        path = "/processor/skip?name=in-sqlite@1&stream=account-a-1&version=2"
        assert (await browser.post(path, data={"typed": "account-a-1@2", "reason": "x"})).status_code == 303


async def test_a_name_that_resolves_to_this_machine_is_not_served(program: App) -> None:
    studio = Studio(program, hosts=("127.0.0.1", "localhost", "[::1]"))
    for host, code in (
        ("evil.example:8765", 421),
        ("localhost:8765", 200),
        ("[::1]:8765", 200),
        ("[::1]", 200),
        ("", 421),
    ):
        async with client(studio, headers={"host": host}) as browser:
            assert (await browser.get("/")).status_code == code


async def test_a_token_is_asked_for_once(program: App) -> None:
    studio = Studio(program, token="s3cret")
    async with client(studio) as browser:
        for path in ("/", "/streams", "/static/studio.js", "/?token=wrong"):
            assert (await browser.get(path)).status_code == 401
        answer = await browser.get("/streams?token=s3cret&category=account")
        assert (answer.status_code, answer.headers["location"]) == (303, "/streams?category=account")
        cookie = answer.headers["set-cookie"].lower()
        assert "httponly" in cookie
        assert "samesite=strict" in cookie
        assert (await browser.get("/streams")).status_code == 200
    async with client(studio) as browser:
        answer = await browser.get("http://testserver//evil.example/?token=s3cret")
        assert answer.headers["location"] == "/evil.example/"


async def test_what_is_masked_is_on_no_page(program: App) -> None:
    hidden = {"owner": "ann", "amount": 66, "balance": 66}
    studio = Studio(program, mask=lambda kind, fields: {name: "…" for name in fields if name in hidden})
    for path in PAGES:
        text = re.sub(r"by ann|request-9|account-a-1", "", await get(studio, path))
        assert "ann" not in re.findall(r"\w+", text)
        assert "66" not in re.findall(r"\w+", text), path


async def test_it_can_be_mounted_in_a_service(program: App) -> None:
    service = FastAPI()
    service.mount("/studio", Studio(program))
    page = await get(service, "/studio/stream?name=account-a-1")
    links = re.findall(r'(?:href|src|action)="(/[^"]*)"', page)
    assert links
    assert all(link.startswith("/studio/") for link in links)
    async with client(service) as browser:
        for link in set(re.findall(r'(?:href|src)="(/[^"]*)"', page)):
            assert (await browser.get(link.replace("&amp;", "&"), follow_redirects=True)).status_code == 200, link


async def test_a_damaged_commit_is_shown_in_its_place(tmp_path: Path) -> None:
    async with open_program(tmp_path):
        pass
    with sqlite3.connect(tmp_path / "bank.db") as db:
        db.execute("UPDATE log SET record = x'90' WHERE position = 1")
    db.close()
    async with SQLiteStore(tmp_path / "bank.db") as store:
        page = await get(Studio(App({"bank": store})), "/stream?name=account-a-1&version=1")
    assert "It cannot be read" in page
    assert "account.deposited" in page


async def test_a_store_that_cannot_be_read_is_named_and_the_rest_is_shown(program: App, tmp_path: Path) -> None:
    closed = SQLiteStore(tmp_path / "closed.db")
    async with closed:
        pass
    studio = Studio(program._replace(stores={"bank": program.stores["bank"], "closed": closed}))
    assert "StoreClosed" in await get(studio, "/trace?id=request-9")
    page = await get(studio, "/streams")
    assert "account-a-1" in page
    assert "closed:" in page


async def test_without_classes_events_are_shown_as_stored(program: App) -> None:
    page = await get(Studio(App(program.stores)), "/stream?name=account-a-1")
    assert "account.opened" in page
    assert "no class of the app has the category" in page
    assert "copy as test" not in page
