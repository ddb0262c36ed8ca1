"""`make faults` shows progress, and each part's results as soon as it ends; whatever goes wrong makes it fail."""

from __future__ import annotations

import io
import time
from collections.abc import Mapping, Sequence

import pytest
from rich.console import Console
from support.made_up_jobs import broken, detected, found_by_a_test, good, losing, missed, slow, wrong

from campaigns import display
from campaigns.__main__ import Run
from campaigns.display import Display
from campaigns.jobs import Job


class Printed(io.StringIO):
    """What was printed, with the time of each line."""

    def __init__(self) -> None:
        super().__init__()
        self.times: list[tuple[float, str]] = []

    def write(self, text: str) -> int:
        self.times.append((time.monotonic(), text))
        return super().write(text)

    def when(self, text: str) -> float:
        return next(at for at, each in self.times if text in each)


def run(parts: Mapping[str, Sequence[Job]]) -> tuple[Run, Printed]:
    shown = Display(Console(file=(printed := Printed()), width=110), list(parts))
    done = Run(parts, shown)
    done.run()
    shown.show_all(done.layers, done.verdicts, done.took)
    return done, printed


def test_rows_are_added_up_and_nothing_wrong_is_a_success() -> None:
    mutants = {"mutants": [(detected, (0,))], "unit-mutants": [(found_by_a_test, (0,))]}
    done, printed = run({"good": [(good, (1,)), (good, (2,))], **mutants})
    assert not done.failed
    assert [(layer.name, layer.operations, layer.seed) for layer in done.layers] == [("good", 20, 1)]
    assert "mutant no condition: detected within 3 histories" in printed.getvalue()
    assert "mutant no condition: a test fails" in printed.getvalue()
    assert "From the start to the end of each part: " in printed.getvalue()
    assert "CPU of each part: " in printed.getvalue()


def test_results_of_a_part_come_before_other_parts_end_and_progress_is_shown(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(display, "INTERVAL", 1.0)
    _, printed = run({"slow": [(slow, (1,))], "wrong": [(wrong, (7,))]})
    assert printed.when("wrong: 10 operations") < printed.when("slow ended")
    assert printed.when("an [event] is missing") < printed.when("slow ended")
    assert printed.getvalue().count("an [event] is missing") == 2  # at once, and again at the end
    shares = [text for _, text in printed.times if "running: slow " in text]
    assert len(shares) >= 2
    assert len(set(shares)) > 1


@pytest.mark.parametrize("job", [wrong, losing, broken, missed], ids=lambda job: job.__name__)
def test_whatever_goes_wrong_makes_it_fail(job: Job) -> None:
    done, _ = run({"good": [(good, (1,))], "part": [(job, (7,))]})  # type: ignore[list-item]
    assert done.failed


def test_an_error_of_a_campaign_is_reported_and_other_parts_continue() -> None:
    done, printed = run({"broken": [(broken, (7,)), (good, (1,))], "good": [(good, (2,))]})
    assert "broken: the campaign ended with ZeroDivisionError('seed 7')" in printed.getvalue()
    assert [layer.name for layer in done.layers if not layer.violations] == ["good", "good"]


def test_a_terminal_gets_a_bar_for_each_part() -> None:
    console = Console(file=(printed := io.StringIO()), width=110, force_terminal=True)
    shown = Display(console, ["reading", "power"])
    with shown.showing():
        shown.update({"reading": 0.25, "power": 0.0})
    assert "reading" in printed.getvalue()
    assert "25%" in printed.getvalue()
