"""Jobs for the tests of `make faults`: good and bad results without a campaign.

They are in a module of their own because the processes that run them import it, and little else.
"""

from __future__ import annotations

import time

from campaigns.mutants import Verdict
from campaigns.progress import report
from campaigns.report import Layer


def good(seed: int) -> Layer:
    return Layer("good", 10, 1, 9, 0, 0, 0.1, seed)


def slow(seed: int) -> Layer:
    for done in range(40):
        report(done, 40)
        time.sleep(0.1)
    return Layer("slow", 10, 1, 9, 0, 0, 4.0, seed)


def wrong(seed: int) -> Layer:
    return Layer("wrong", 10, 1, 9, 0, 0, 0.1, seed, ["seed 7: an [event] is missing"])


def losing(seed: int) -> Layer:
    return Layer("losing", 10, 1, 9, 1, 0, 0.1, seed)


def broken(seed: int) -> Layer:
    raise ZeroDivisionError(f"seed {seed}")


def detected(seed: int) -> Verdict:
    return Verdict("no_condition", 3, "seed 3: overwritten")


def found_by_a_test(seed: int) -> Verdict:
    return Verdict("no_condition", 0, "test_stores.py::test_conflicts")


def missed(seed: int) -> Verdict:
    return Verdict("no_condition", None, "")
