"""The bare loops of the benchmarks find the answers of the library, and their figures reach the page and the README."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
from support.bank import Account, Deposited, Opened

from benchmarks import bare, basics, comparison, page
from benchmarks.filling import fill
from benchmarks.models import Balances, BalancesByEvent, BalancesByStream, BalancesInSQLite
from eventsrc import Repository, SQLiteStore
from eventsrc.processing import Processor, SQLiteCheckpoints

STREAMS, COMMITS, EVENTS = 5, 4, 3
EXPECTED = {f"account-a-{number}": COMMITS * EVENTS for number in range(STREAMS)}


async def test_bare_loops_find_the_same_answers(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(bare, "PAGE", 7)  # the last page is not full
    async with SQLiteStore(tmp_path / "ledger.db") as store:
        await fill(store, STREAMS, COMMITS, EVENTS)
        with bare.open_file(tmp_path / "bare.db") as source:
            await bare.copy(store, source)
            for number in range(STREAMS):
                ours, theirs = await Repository(Account, store).load(f"a-{number}"), bare.load(source, f"a-{number}")
                assert (theirs.owner, theirs.balance) == (ours.owner, ours.balance) == ("ann", COMMITS * EVENTS)
            model = Balances()
            bare.project(source, model)
            assert model.balances == EXPECTED
            for project in (bare.project_each, bare.project_batches):
                with bare.open_file(tmp_path / f"{project.__name__}.db") as target:
                    bare.create_balances(target)
                    project(source, target)
                    assert dict(target.execute("SELECT * FROM balances")) == EXPECTED
                    assert target.execute("SELECT position FROM place").fetchall() == [(STREAMS * COMMITS,)]


@pytest.mark.parametrize("kind", [BalancesByEvent, BalancesInSQLite, BalancesByStream])
async def test_the_read_models_of_the_benchmarks_find_the_same_answers(tmp_path: Path, kind: type[Any]) -> None:
    async with SQLiteStore(tmp_path / "ledger.db") as store, SQLiteCheckpoints(tmp_path / "model.db") as checkpoints:
        await fill(store, STREAMS, COMMITS, EVENTS)
        processor = Processor(kind(), store, checkpoints)
        await processor.run(until_caught_up=True)
        query = f"SELECT * FROM {processor.projection.table}"
        assert dict(await checkpoints.read(lambda db: db.execute(query).fetchall())) == EXPECTED


def test_a_bare_save_is_what_a_bare_load_reads(tmp_path: Path) -> None:
    with bare.open_file(tmp_path / "bare.db") as connection:
        bare.save(connection, "account-a-1", 1, [Opened(owner="ann"), Deposited(amount=2)])
        bare.save(connection, "account-a-1", 2, [Deposited(amount=3)])
        account = bare.load(connection, "a-1")
    assert (account.owner, account.balance) == ("ann", 5)


def test_the_page_and_the_readme_take_the_figures_of_the_parts(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    readme = tmp_path / "README.md"
    readme.write_text(page.README.read_text())
    monkeypatch.setattr(page, "README", readme)
    monkeypatch.setattr(page, "PAGE", tmp_path / "performance.md")
    values = {
        "CPU: save ÷ put by the SDK": 0.123,
        "fold, 1 event(s) a commit ÷ bare msgspec decode and dict dispatch": 0.456,
    }
    found = {
        "basics": {"figures": [{"name": name, "value": value} for name, value in values.items()]},
        "comparison": {"sqlite": _peers("eventsourcing"), "dynamodb": _peers("castore (Node)")},
    }
    figures = page.write({"basics": basics, "comparison": comparison}, found, {"Python": "3", "machine": "m"})
    text = readme.read_text()
    assert text.count("12%") == 2
    assert text.count("46%") == 1
    assert "| castore (Node) | 2 | 2 | 2 | 1 | 0 of 3 |" in text
    text = page.PAGE.read_text()
    assert text.index("given its best") < text.index("| figure | measured |")
    assert "eventsourcing: 8." in text
    assert "Node 20" in text
    best = {figure.name: figure.value for figure in figures}[
        "SQLite, saves/s from 64 tasks ÷ the best peer at its best"
    ]
    assert best == pytest.approx(4.0)


def _peers(name: str) -> dict[str, Any]:
    """Return answers of eventsrc and of a peer that takes twice as long, and is fastest with 8 workers."""
    found: dict[str, Any] = {}
    for each, factor in (("eventsrc", 1.0), (name, 2.0)):
        cost = {"cpu": factor, "wall": factor}
        columns = ("save", "load 10", "load 100", "load 1000", "load 1000, snapshot", "snapshot")
        rates = {f"at once {workers}": {**cost, "wall": abs(workers - 8) + factor} for workers in comparison.WORKERS}
        found[each] = {**{column: dict(cost) for column in columns}, **rates}
        found[each] |= {
            "runs on": "Node 20" if "Node" in each else "Python 3, SQLite 3",
            "race": {"acknowledged": 1, "conflicts": 2, "errors": 0, "stored": 1},
            "counts": {"save": [1, 0, 1], "load": [1, 4, 0]},
        }
    found["eventsrc"]["at once 64"] = {"cpu": 0.5, "wall": 0.5}
    return found
