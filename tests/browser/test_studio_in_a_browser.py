"""The studio in a real browser: without a mouse, without JavaScript, with hostile names, and next to a hostile page."""

from __future__ import annotations

import os
from collections.abc import AsyncIterator
from pathlib import Path
from typing import Any

import pytest
from playwright.async_api import Browser, Page, async_playwright, expect
from support.bank import Account
from support.browser import ABSENT, IS_REQUIRED, find_chromium
from support.program import open_program, serve

from eventsrc import Aggregate, Event, MemoryStore, Repository, trace
from eventsrc.inspection import App
from eventsrc.studio import Studio

expect.set_options(timeout=30_000)

HOSTILE = """<script>window.hacked=1</script>"><img src=x onerror="window.hacked=1">'`{{7*7}}${7*7}&lt;</svg></title>"""
PAGES = [
    "/",
    "/streams",
    "/stream?name=account-a-1",
    "/trace?id=request-9",
    "/live",
    "/processors",
    "/processor?name=in-sqlite@1",
]


@pytest.fixture
async def browser() -> AsyncIterator[Browser]:
    path = find_chromium()
    if path is None and not IS_REQUIRED:
        pytest.skip(ABSENT)
    arguments = ["--no-sandbox"] if os.geteuid() == 0 else []
    async with async_playwright() as playwright:
        found = await playwright.chromium.launch(executable_path=path, args=arguments)
        yield found
        await found.close()


async def open_page(browser: Browser, **options: Any) -> tuple[Page, list[str]]:
    """Return a page, and the list of what goes wrong on it."""
    page, problems = await browser.new_page(**options), list[str]()
    page.on("pageerror", lambda error: problems.append(str(error)))
    page.on("dialog", lambda dialog: problems.append(dialog.message))
    page.on("console", lambda message: problems.append(message.text) if message.type == "error" else None)
    return page, problems


async def test_the_state_follows_the_slider_and_the_keyboard(browser: Browser, tmp_path: Path) -> None:
    async with open_program(tmp_path) as program, serve(Studio(program)) as address:
        page, problems = await open_page(browser)
        await page.goto(f"{address}/stream?name=account-a-1")
        await expect(page.get_by_role("heading", name="State at version 2")).to_be_visible()
        await page.get_by_role("slider").focus()
        await page.keyboard.press("ArrowLeft")
        await expect(page.get_by_role("heading", name="State at version 1")).to_be_visible()
        await expect(page.locator("[aria-current=true] .version")).to_have_text("@1")
        assert "version=1" in page.url  # a permanent link
        assert "version=1" in (await page.get_by_role("link", name="copy as test").get_attribute("href") or "")
        await page.reload()
        await expect(page.get_by_role("heading", name="State at version 1")).to_be_visible()
        assert problems == []


async def test_everything_but_the_live_page_works_without_javascript(browser: Browser, tmp_path: Path) -> None:
    async with open_program(tmp_path) as program, serve(Studio(program, write=True)) as address:
        page, _ = await open_page(browser, java_script_enabled=False)
        await page.goto(address)
        await page.get_by_role("searchbox").fill("account-a-1")
        await page.get_by_role("button", name="Find").click()
        await page.get_by_role("link", name="@1", exact=True).click()
        await expect(page.get_by_role("heading", name="State at version 1")).to_be_visible()
        await page.get_by_role("link", name="trace request-9").first.click()
        await expect(page.get_by_role("listitem").filter(has_text="account.deposited").first).to_be_visible()
        await page.get_by_role("link", name="Processors").click()
        await page.get_by_role("link", name="in-sqlite@1").click()
        await page.get_by_role("link", name="Skip", exact=True).click()
        await page.get_by_label("Reason").fill("paid back")
        await page.get_by_label("to confirm").fill("account-a-1@2")
        await page.get_by_role("button", name="Skip").click()
        await expect(page.get_by_text("No streams are parked.")).to_be_visible()
        assert await program.processors[0].parked() == []


async def test_a_trace_grows_while_it_is_looked_at_and_can_be_zoomed(browser: Browser) -> None:
    async with MemoryStore() as store, serve(Studio(App({"bank": store}, aggregates=[Account]))) as address:
        accounts = Repository(Account, store)
        with trace(correlation_id="request-9"):
            await accounts.save(Account.open("a-1", owner="ann"))
        page, problems = await open_page(browser)
        await page.goto(f"{address}/trace?id=request-9")
        await expect(page.get_by_text("More may follow")).to_be_visible()
        with trace(correlation_id="request-9", causation_id="account-a-1@1.0"):
            await accounts.execute("a-1", Account.deposit, 5)
        await expect(page.locator(".steps").get_by_text("account.deposited")).to_be_visible()
        picture = page.locator(".picture svg")
        before = float(await picture.get_attribute("width") or 0)
        await page.get_by_role("button", name="Larger").click()
        assert float(await picture.get_attribute("width") or 0) > before
        await picture.get_by_role("link", name="account.deposited").click()  # leads to the version
        await expect(page.get_by_role("heading", name="State at version 2")).to_be_visible()
        assert problems == []


async def test_the_live_page_shows_what_is_stored(browser: Browser) -> None:
    async with MemoryStore() as store, serve(Studio(App({"bank": store}))) as address:
        accounts = Repository(Account, store)
        page, problems = await open_page(browser)
        await page.goto(f"{address}/live?tag=account.deposited")
        await expect(page.get_by_text("Waiting for what is stored")).to_be_visible()
        await accounts.save(Account.open("a-1", owner="ann"))
        await accounts.execute("a-1", Account.deposit, 5)
        await expect(page.locator("#live tr")).to_have_count(1)
        await expect(page.locator("#live tr")).to_contain_text("account.deposited")
        await expect(page.locator("#live tr")).to_contain_text("amount=5")
        await page.get_by_role("link", name="account-a-1@2").click()
        await expect(page.get_by_role("heading", name="account-a-1")).to_be_visible()
        assert problems == []


class Noted(Event, tag=f"note{HOSTILE}"):
    text: str


class Note(Aggregate, tag="note"):
    text: str = ""

    def apply_noted(self, event: Noted) -> None:
        self.text = event.text


async def test_hostile_names_run_no_script(browser: Browser) -> None:
    async with MemoryStore() as store, serve(Studio(App({HOSTILE: store}, aggregates=[Note]))) as address:
        page, problems = await open_page(browser)
        await page.goto(f"{address}/live")
        await expect(page.get_by_text("Waiting for what is stored")).to_be_visible()
        id = HOSTILE.replace("`", "")
        note = Note(id=id)
        note.record(Noted(text=HOSTILE))
        with trace(HOSTILE, [HOSTILE, f"{HOSTILE}@1.0"], {"actor": HOSTILE, "handler": HOSTILE, "service": HOSTILE}):
            await Repository(Note, store).save(note)
        await expect(page.locator("#live tr")).to_have_count(1)
        await page.get_by_role("link", name="@1").click()
        for path in ("/", "/streams", "/events", "/map"):
            await page.goto(address + path)
            assert await page.evaluate("window.hacked") is None
        await page.goto(f"{address}/find")
        await page.get_by_role("searchbox").fill(f"note-{id}")
        await page.get_by_role("button", name="Find").click()
        await expect(page.get_by_role("heading", name="State at version 1")).to_be_visible()
        assert await page.evaluate("window.hacked") is None
        await page.get_by_role("link", name="copy as test").click()
        await page.go_back()
        await page.get_by_role("link", name="trace").first.click()
        await expect(page.locator(".steps")).to_be_visible()
        assert await page.evaluate("window.hacked") is None
        assert problems == []


READ = """async (address) => {
    try { return await (await fetch(address)).text() } catch { return 'refused' }
}"""
FRAME = """(address) => new Promise((done) => {
    const frame = document.querySelector('iframe');
    frame.onload = done;
    frame.src = address;
})"""
POST = """async (address) => {
    const body = 'typed=account-a-1%402&reason=x';
    const headers = {'content-type': 'application/x-www-form-urlencoded'};
    try { await fetch(address, {method: 'POST', mode: 'no-cors', body, headers}) } catch {}
}"""


async def test_another_page_can_neither_read_nor_frame_nor_change_it(browser: Browser, tmp_path: Path) -> None:
    async def hostile(scope: Any, receive: Any, send: Any) -> None:
        await send({"type": "http.response.start", "status": 200, "headers": [(b"content-type", b"text/html")]})
        await send({"type": "http.response.body", "body": b"<title>hostile</title><iframe></iframe>"})

    async with (
        open_program(tmp_path) as program,
        serve(Studio(program, write=True, hosts=("127.0.0.1",))) as address,
        serve(hostile) as other,
    ):
        page, _ = await open_page(browser)
        await page.goto(other)
        assert await page.evaluate(READ, f"{address}/streams") == "refused"
        await page.evaluate(FRAME, address)
        assert "Find a stream" not in "".join([await each.content() for each in page.frames])
        await page.evaluate(POST, f"{address}/processor/skip?name=in-sqlite@1&stream=account-a-1&version=2")
        assert len(await program.processors[0].parked()) == 1


@pytest.mark.parametrize("steps", [0, 1, 10_000])
async def test_a_trace_of_any_size_is_shown(browser: Browser, steps: int) -> None:
    async with MemoryStore() as store, serve(Studio(App({"bank": store}))) as address:
        accounts = Repository(Account, store)
        for number in range(steps):
            cause = f"account-a-{number // 7}@1.0" if number else None
            with trace(correlation_id="request-9", causation_id=cause):
                await accounts.save(Account.open(f"a-{number}", owner="ann"))
        page, problems = await open_page(browser)
        await page.goto(f"{address}/trace?id=request-9")
        if steps:
            await expect(page.get_by_text(f"{steps:,} step").first).to_be_visible()
            assert problems == []
        else:
            await expect(page.get_by_text("nothing has the id")).to_be_visible()


@pytest.mark.parametrize("scheme", ["light", "dark"])
@pytest.mark.parametrize("width", [360, 1200])
async def test_no_page_is_wider_than_the_screen(browser: Browser, tmp_path: Path, scheme: Any, width: int) -> None:
    async with open_program(tmp_path) as program, serve(Studio(program, write=True)) as address:
        page, problems = await open_page(browser, color_scheme=scheme, viewport={"width": width, "height": 800})
        for path in PAGES:
            await page.goto(address + path)
            assert await page.evaluate("document.documentElement.scrollWidth <= innerWidth"), path
            assert await page.evaluate("getComputedStyle(document.body).backgroundColor") == (
                "rgb(255, 255, 255)" if scheme == "light" else "rgb(22, 24, 28)"
            )
        assert problems == []
