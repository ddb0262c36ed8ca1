"""Events are recorded if they are read back with the same values, and refused otherwise; `==` does not decide."""

from __future__ import annotations

import re
from collections.abc import Iterator
from dataclasses import dataclass, field
from datetime import UTC, date, datetime, time, timedelta, timezone
from decimal import Decimal
from typing import Any
from zoneinfo import ZoneInfo

import msgspec
import pytest

from eventsrc import Event, InvalidEvent
from eventsrc.aggregates.codec import Codec

BERLIN = ZoneInfo("Europe/Berlin")
LOCAL = datetime.fromisoformat("2026-10-25T02:30:00")


class Identical(msgspec.Struct, frozen=True, eq=False):
    """Equal only to itself."""

    number: int


class Careless(msgspec.Struct):
    """Equal to every other."""

    number: Any = 0

    def __eq__(self, other: object) -> bool:
        return True


@dataclass
class Partial:
    """Equal to others with the same key."""

    key: int
    content: Any = field(default=None, compare=False)


class Held(Event, tag="held"):
    at: datetime | None = None
    times: list[datetime] = []  # noqa: RUF012  # msgspec copies it
    by_time: dict[str, time] = {}  # noqa: RUF012
    members: list[Identical] = []  # noqa: RUF012
    unordered: frozenset[Identical] = frozenset()
    careless: Careless | None = None
    partial: Partial | None = None
    price: Decimal = Decimal(0)
    ratio: float = 0.0
    anything: Any = None


class Peculiar(Event, tag="peculiar"):
    """An event that is equal to every other."""

    content: Any

    def __eq__(self, other: object) -> bool:
        return True

    def __hash__(self) -> int:
        return 0


CODEC = Codec([Held, Peculiar], {})


def read_back(event: Event) -> Any:
    return CODEC.encode(event)[1]


def hours_of_a_clock_change() -> Iterator[datetime]:
    for day in (date(2026, 3, 29), date(2026, 10, 25)):
        for minutes in range(60, 240, 15):
            for fold in (0, 1):
                yield datetime.combine(day, time(minutes // 60, minutes % 60, fold=fold), BERLIN)


@pytest.mark.parametrize("moment", list(hours_of_a_clock_change()), ids=repr)
def test_local_times_of_a_clock_change_are_kept_as_the_same_moment(moment: datetime) -> None:
    event = read_back(Held(at=moment, times=[moment]))
    assert [event.at, *event.times] == [moment.astimezone(UTC)] * 2
    assert event.at.tzinfo is UTC


def test_members_that_equal_only_themselves_are_kept() -> None:
    event = read_back(Held(members=[Identical(1), Identical(2)], unordered=frozenset(map(Identical, range(9)))))
    assert [member.number for member in event.members] == [1, 2]
    assert {member.number for member in event.unordered} == {*range(9)}


@pytest.mark.parametrize(
    "event",
    [
        Held(at=LOCAL),
        Held(by_time={"a": time(9), "b": time(9, tzinfo=UTC), "c": time(9, tzinfo=timezone(timedelta(hours=-3)))}),
        Held(price=Decimal("1.50")),
        Held(price=Decimal("NaN")),
        Held(ratio=3),
        Held(anything=datetime(2026, 1, 1, tzinfo=UTC)),
        Held(careless=Careless(5), partial=Partial(1, "content")),
        Peculiar(content=[1, "text", {"a": None}]),
    ],
)
def test_values_that_are_read_back_are_kept(event: Event) -> None:
    assert repr(read_back(event)) == repr(event).replace("ratio=3,", "ratio=3.0,")


@pytest.mark.parametrize(
    ("event", "name"),
    [
        (Held(at=LOCAL.replace(fold=1)), "at"),
        (Held(times=[LOCAL, LOCAL.replace(fold=1)]), "times[...]"),
        (Held(by_time={"a": time(9, tzinfo=BERLIN)}), "by_time[...]"),
        (Held(by_time={"a": time(9, fold=1)}), "by_time[...]"),
        (Held(by_time={"a": time(9, tzinfo=timezone(timedelta(hours=1, seconds=7)))}), "by_time[...]"),
        (Held(anything=LOCAL), "anything"),
        (Held(anything=(1, 2)), "anything"),
        (Held(anything=[{"a": (1, 2)}]), "anything[...][...]"),
        (Held(careless=Careless((1, 2))), "careless.number"),
        (Held(partial=Partial(1, {1, 2})), "partial.content"),
        (Held(ratio=2**60 + 1), "ratio"),
        (Peculiar(content=(1, 2)), "content"),
    ],
)
def test_values_that_would_be_read_back_changed_are_refused(event: Event, name: str) -> None:
    with pytest.raises(InvalidEvent, match=f"read back as another value, at `{re.escape(f'$.{name}')}`"):
        read_back(event)
