"""The command line, on files of its own and on an app: what it prints, and the codes that it ends with."""

from __future__ import annotations

import asyncio
import json
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path

import pytest
from support import shop
from support.bank import Account

from eventsrc import Repository, SQLiteStore, trace
from eventsrc.command_line.main import main, make_parser


def test_streams_and_their_events(run: Callable[..., tuple[int, str]]) -> None:
    assert run("streams") == (0, "account-a  @3  shop\n")
    assert run("streams", "--category", "order") == (0, "")
    code, text = run("show", "account-a@2")
    assert code == 0
    first, second = [line.split("  ") for line in text.splitlines()]
    assert (first[0], first[2:]) == ("account-a@1.0", ["account.opened", 'owner="ann"'])
    assert (second[0], second[2:]) == ("account-a@2.0", ["account.deposited", "amount=5"])
    found = json.loads(run("show", "account-a@1", "--json")[1])
    assert found["events"] == [{"$": "account.opened", "owner": "ann"}]
    assert found["metadata"] == {"actor": "ann"}
    assert run("show", "account-a", "--at", "2001-01-01")[0] == 1


def test_a_trace_shows_fields_only_if_asked(run: Callable[..., tuple[int, str]]) -> None:
    assert 'owner="ann"' not in run("trace", "request-9")[1]
    _, text = run("trace", "request-9", "--fields")
    opened = text.splitlines().index("account.opened  account-a@1  shop, by ann")
    assert text.splitlines()[opened + 1] == '│  owner="ann"'
    found = json.loads(run("effects", "account-a@2.0", "--fields", "--json")[1])
    assert [event["about"] for step in found["steps"] for event in step["events"]] == ["amount=5", "amount=13"]


def test_a_store_of_the_program_that_cannot_be_used_has_its_own_code(
    folder: Path, run: Callable[..., tuple[int, str]]
) -> None:
    (folder / "shop.db").write_bytes(b"not a database" * 1_000)
    code, text = run("status", app=True)
    assert (code, "shop.db" in text, "failed:" in text) == (3, True, False)


def test_a_trace_is_printed_in_columns(run: Callable[..., tuple[int, str]]) -> None:
    code, text = run("trace", "request-9", "--lanes")
    head, *steps = text.splitlines()[-4:]
    assert (code, head.split()) == (0, ["shop"])
    assert [step.split()[-1] for step in steps] == ["account.opened", "account.deposited", "account.deposited"]
    assert run("trace", "request-9", "--lanes", "--by-stream")[1].splitlines()[-4].split() == ["account-a"]


def test_states_and_what_differs_between_them(run: Callable[..., tuple[int, str]]) -> None:
    assert run("state", "account-a@2", app=True) == (0, 'owner = "ann"\nbalance = 5\nid = "a"\n')
    assert run("diff", "account-a", "@1", "@3", app=True) == (1, "balance: 0 -> 18\n")
    assert run("diff", "account-a", "@1", "@1", app=True) == (0, "")
    code, text = run("state", "account-a")
    assert (code, "give it with --app" in text) == (2, True)


def test_traces_causes_and_effects(run: Callable[..., tuple[int, str]]) -> None:
    code, text = run("trace", "request-9", app=True)
    assert (code, text.splitlines()[0].split(",")[0]) == (0, "request-9: 3 steps")
    assert "open: view@1 has not handled account-a@2 and 1 more" in text
    steps = json.loads(run("trace", "account-a@2.0", "--json")[1])["steps"]
    assert [step["id"] for step in steps] == ["account-a@1", "account-a@2", "account-a@3"]
    assert run("why", "account-a@2.0")[1].count("account-a@") == run("why", "account-a@2")[1].count("account-a@")
    assert "account-a@3" not in run("why", "account-a@2.0")[1]
    assert "account-a@1 " not in run("effects", "account-a@2.0")[1]
    code, text = run("trace", "request-10")
    assert (code, "looked up: the correlation id 'request-10' in shop" in text) == (1, True)


def test_traces_are_written_as_pictures(folder: Path, run: Callable[..., tuple[int, str]]) -> None:
    code, text = run("trace", "request-9", "--svg", "trace.svg", "--html", "trace.html")
    assert (code, text.splitlines()[0].split(",")[0]) == (0, "request-9: 3 steps")
    assert (folder / "trace.svg").read_text().count("account.deposited") > 2
    assert "<h1>Trace request-9</h1>" in (folder / "trace.html").read_text()
    code, text = run("trace", "request-9", "--mermaid")
    assert (code, text.splitlines()[0], text.count("-->")) == (0, "flowchart LR", 2)
    assert run("why", "account-a@2", "--mermaid")[1].count("-->") == 1
    assert run("effects", "account-a@3", "--svg", "effects.svg")[0] == 0
    assert "account-a@2" not in (folder / "effects.svg").read_text()
    code, text = run("trace", "request-9", "--svg", "missing/trace.svg")
    assert (code, text) == (2, "eventsrc: missing/trace.svg cannot be written: No such file or directory\n")


def test_a_trace_is_followed_until_it_is_quiet_or_interrupted(
    folder: Path, run: Callable[..., tuple[int, str]], capsys: pytest.CaptureFixture[str]
) -> None:
    code, text = run("trace", "request-9", "--follow", "--quiet", "0.01", "--html", "trace.html")
    assert (code, text) == run("trace", "request-9")
    assert "<h1>Trace request-9</h1>" in (folder / "trace.html").read_text()
    assert len(json.loads(run("trace", "request-9", "--follow", "--quiet", "0.01", "--json")[1])["steps"]) == 3
    with pytest.raises(SystemExit):
        run("trace", "request-9", "--follow", "--quiet", "0")
    assert "'0' is not a number of seconds above 0" in capsys.readouterr().err

    async def follow() -> str:
        command = [sys.executable, "-m", "eventsrc", "trace", "request-9", "--follow", "--quiet", "600"]
        process = await asyncio.create_subprocess_exec(*command, "--store", "sqlite:///shop.db", stdout=subprocess.PIPE)
        assert process.stdout is not None
        lines = [(await process.stdout.readline()).decode() for _ in range(6)]
        assert lines[5].lstrip("└─ ").startswith("account.deposited  account-a@3")
        async with SQLiteStore(folder / "shop.db") as store:
            accounts = Repository(Account, store)
            account = await accounts.load("a")
            account.deposit(1)
            with trace("request-9", causation_id="account-a@3.0"):
                await accounts.save(account)
            line = (await process.stdout.readline()).decode()
        process.send_signal(2)
        assert await process.wait() == 130
        return line

    assert asyncio.run(follow()).startswith("account.deposited  account-a@4  +")


def test_usual_steps_that_have_not_followed_are_named(folder: Path, run: Callable[..., tuple[int, str]]) -> None:
    async def fill_more() -> None:
        async with SQLiteStore(folder / "shop.db") as store:
            for number in range(30):
                with trace(f"request-b-{number}"):
                    account = Account.open(f"b-{number}", owner="ann")
                    await Repository(Account, store).save(account)
                with trace(f"request-b-{number}", causation_id=f"account-b-{number}@1.0"):
                    account.deposit(5)
                    if number:
                        await Repository(Account, store).save(account)

    asyncio.run(fill_more())
    code, text = run("trace", "request-b-0", "--expect")
    assert (code, text.splitlines()[1].startswith("usually followed by account.deposited within ")) == (0, True)
    assert text.splitlines()[1].endswith(" (p95): account-b-0@1 not yet")
    [missing] = json.loads(run("trace", "request-b-0", "--expect", "--json")[1])["missing"]
    assert (missing["step"], missing["effect"]) == ("account-b-0@1", "account.deposited")
    assert "usually" not in run("trace", "request-b-1", "--expect")[1]
    assert "usually" not in run("trace", "request-b-0")[1]


def test_a_trace_is_written_for_process_mining(folder: Path, run: Callable[..., tuple[int, str]]) -> None:
    assert run("trace", "request-9", "--ocel", "trace.json")[0] == 0
    found = json.loads((folder / "trace.json").read_text())
    assert [event["id"] for event in found["events"]] == ["account-a@1.0", "account-a@2.0", "account-a@3.0"]


def test_maps_and_what_differs_between_two_periods(
    folder: Path, run: Callable[..., tuple[int, str]], capsys: pytest.CaptureFixture[str]
) -> None:
    code, text = run("map", "--svg", "map.svg")
    assert (code, text.splitlines()[0]) == (0, "2 types of events, 2 kinds of causes")
    assert "account.opened -> account.deposited     1      100%" in text
    assert (folder / "map.svg").read_text().count('class="box"') == 2
    found = json.loads(run("map", "--json")[1])
    assert [(edge["cause"], edge["effect"], edge["count"]) for edge in found["edges"]] == [
        ("account.deposited", "account.deposited", 1),
        ("account.opened", "account.deposited", 1),
    ]
    assert run("map", "--mermaid")[1].count("-->") == 2
    assert run("map", "--until", "2001-01-01")[1].splitlines()[0].startswith("0 types of events")
    code, text = run("map", "--against", "..2001-01-01")
    assert (code, text.count("new: ")) == (1, 2)
    assert run("map", "--against", "2001-01-01..") == (0, "")
    change = json.loads(run("map", "--until", "2001-01-01", "--against", "2001-01-01..", "--json")[1].splitlines()[0])
    assert (change["sort"], change["after"], change["share_before"]) == ("gone", None, 0.5)
    for wrong in ("..", "2001-01-01", "yesterday.."):
        with pytest.raises(SystemExit):
            run("map", "--against", wrong)
        assert "write it as 2026-01-" in capsys.readouterr().err


def test_parked_streams_are_shown_retried_and_skipped(run: Callable[..., tuple[int, str]]) -> None:
    asyncio.run(shop.park())
    assert run("status", app=True)[0] == 1
    assert run("trace", "request-9", app=True)[0] == 1
    code, text = run("parked", "list", app=True)
    assert (code, text.startswith("view@1  account-a@3  1 attempts")) == (1, True)
    assert "amount=13" in run("parked", "show", "view@1", "account-a", app=True)[1]
    assert run("parked", "retry", "view", "account-a", "--dry-run", app=True)[0] == 0
    assert run("parked", "retry", "view", "account-a", "--yes", app=True)[0] == 1
    assert run("parked", "skip", "view@1", "account-a@3", "--reason", "a test", "--dry-run", app=True)[0] == 0
    assert run("parked", "list", app=True)[0] == 1
    assert run("parked", "skip", "view@1", "account-a@3", "--reason", "a test", "--yes", app=True)[0] == 0
    assert run("parked", "list", app=True) == (0, "")
    assert run("status", app=True)[0] == 0
    assert run("parked", "show", "view", "account-a", app=True)[0] == 1
    assert "! view@1: skipped: a test" in run("trace", "request-9", app=True)[1]
    assert run("parked", "skip", "view", "account-a@3", "--reason", "again", "--yes", app=True)[0] == 0  # it is done
    for verb in (["retry", "view", "account-a"], ["skip", "view", "account-a@2", "--reason", "again"]):
        code, text = run("parked", *verb, "--yes", app=True)
        assert (code, "has not parked account-a" in text) == (1, True)
    code, text = run("parked", "skip", "view", "account-a", "--reason", "again", "--yes", app=True)
    assert (code, "write account-a@VERSION" in text) == (2, True)


@pytest.mark.parametrize(
    ("arguments", "code", "message"),
    [
        (("streams",), 2, "no store is given"),
        (("streams", "--store", "sqlite:///missing.db"), 2, "there is no file missing.db"),
        (("streams", "--store", "memory://"), 2, "belongs to one process"),
        (("streams", "--store", "nothing"), 2, "a URL must start with"),
        (("streams", "--store", "a=sqlite:///shop.db", "--store", "a=sqlite:///shop.db"), 2, "the same name"),
        (("streams", "--store", "sqlite:///pyproject.toml"), 3, "not an SQLite database"),
        (("streams", "--app", "nothing"), 2, "write module:attribute"),
        (("streams", "--app", "no_such_module:app"), 2, "cannot be imported"),
        (("streams", "--app", "support.shop:missing"), 2, "has no function missing"),
        (("streams", "--app", "support.shop:View"), 2, "decorate it with @asynccontextmanager"),
        (("show", "account-a@0", "--store", "sqlite:///shop.db"), 2, "has no version after '@'"),
        (("show", "account-b", "--store", "sqlite:///shop.db"), 1, "account-b not found"),
        (("status", "--store", "sqlite:///shop.db"), 2, "no processors are known"),
        (("parked", "list", "--store", "sqlite:///shop.db"), 2, "no processors are known"),
        (
            ("trace", "account-a", "--store", "sqlite:///shop.db"),
            2,
            "is a stream; give one of its commits, account-a@1 to",
        ),
        (("why", "request-9", "--store", "sqlite:///shop.db"), 2, "is not an event of the trace request-9"),
        (("why", "account-a@2.7", "--store", "sqlite:///shop.db"), 2, "is not an event of the trace request-9"),
        (("show", "account-a@99", "--store", "sqlite:///shop.db"), 1, "there is no version 99: shop has 3 of them"),
        (("status", "--app", "support.shop:fill"), 2, "support.shop:fill failed: TypeError"),
        (("parked", "show", "mail", "a", "--app", "support.shop:app"), 2, "known: view@1"),
        (("tail", "--store", "sqlite:///shop.db", "--after", "4"), 2, "'4' is not a position of the store shop"),
        (("tail", "--store", "sqlite:///shop.db", "--after", "-1"), 2, "write a number up to its last one"),
        (("map", "--store", "sqlite:///shop.db", "--mermaid", "--against", "..2026-01-01"), 2, "leave out --against"),
        (("map", "--store", "sqlite:///shop.db", "--svg", "missing/map.svg"), 2, "missing/map.svg cannot be written"),
    ],
)
def test_mistakes_are_named(
    folder: Path, capsys: pytest.CaptureFixture[str], arguments: tuple[str, ...], code: int, message: str
) -> None:
    (folder / "pyproject.toml").write_text("# nothing of eventsrc\n" * 200)
    assert main(arguments) == code
    captured = capsys.readouterr()
    assert message in captured.err
    assert captured.out == ""
    assert not (folder / "missing.db").exists()


def test_stores_come_from_the_environment_or_the_project(
    folder: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("EVENTSRC_STORE", "orders=sqlite:///shop.db")
    assert main(["streams"]) == 0
    (folder / "pyproject.toml").write_text('[tool.eventsrc]\napp = "support.shop:app"\nstore = []\n')
    assert main(["state", "account-a"]) == 0
    assert capsys.readouterr().out == 'account-a  @3  orders\nowner = "ann"\nbalance = 18\nid = "a"\n'


def test_tail_prints_what_is_stored_until_it_is_interrupted(folder: Path) -> None:
    command = [sys.executable, "-m", "eventsrc", "tail", "--store", "sqlite:///shop.db"]

    async def follow() -> list[str]:
        process = await asyncio.create_subprocess_exec(*command, stdout=subprocess.PIPE)
        assert process.stdout is not None
        async with SQLiteStore(folder / "shop.db") as store:
            lines: list[str] = []
            reading = asyncio.ensure_future(process.stdout.readline())
            number = 0
            while not reading.done():  # until it follows
                number += 1
                await Repository(Account, store).save(Account.open(f"b-{number}", owner="ann"))
                await asyncio.wait([reading], timeout=0.1)
            lines.append((await reading).decode())
        process.send_signal(2)
        assert await process.wait() == 130
        return lines

    [line] = asyncio.run(follow())
    assert "account.opened" in line


@pytest.mark.parametrize(
    ("options", "first"),
    [
        (["--after", "start"], "account-a@1.0"),
        (["--after", "0", "--tag", "account.deposited", "--tag", "no.such"], "account-a@2.0"),
        (["--after", "2", "--category", "account"], "account-a@3.0"),
        (["--after", "start", "--stream", "account-b"], "account-b-1@1.0"),
        (["--after", "start", "--correlation", "account-b-1@1"], "account-b-1@1.0"),
        (["--after", "start", "--tag", "account.deposited", "--correlation", "request-b"], "account-b-1@2.0"),
    ],
)
def test_tail_prints_what_is_wanted_of_what_is_stored(folder: Path, options: list[str], first: str) -> None:
    async def fill_more() -> None:
        async with SQLiteStore(folder / "shop.db") as store:
            account = Account.open("b-1", owner="ann")
            await Repository(Account, store).save(account)
            account.deposit(5)
            with trace("request-b"):
                await Repository(Account, store).save(account)

    asyncio.run(fill_more())
    command = [sys.executable, "-m", "eventsrc", "tail", "--store", "sqlite:///shop.db", *options]
    with subprocess.Popen(command, stdout=subprocess.PIPE, text=True) as process:
        assert process.stdout is not None
        line = process.stdout.readline()
        process.send_signal(2)
        assert process.wait() == 130
    assert line.partition("  ")[0] == first


def test_every_verb_has_help_with_an_example(capsys: pytest.CaptureFixture[str]) -> None:
    verbs = make_parser().children
    assert {"streams", "trace", "map", "rebuild", "studio", "table"} <= verbs.keys()
    groups = [[group, verb] for group, parser in verbs.items() for verb in parser.children]
    for words in [*([verb] for verb in verbs if not verbs[verb].children), *groups]:
        with pytest.raises(SystemExit):
            make_parser().parse_args([*words, "--help"])
        assert f"example: eventsrc {' '.join(words)}" in capsys.readouterr().out


def test_help_is_printed_without_loading_the_sdk() -> None:
    code = """
import sys
from eventsrc.command_line.main import make_parser
make_parser()
print([name for name in ("aiobotocore", "botocore", "boto3", "aiohttp") if name in sys.modules])
"""
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert done.stdout == "[]\n"
