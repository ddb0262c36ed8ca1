"""Correlation and causation: nested, inherited by tasks, and always text."""

from __future__ import annotations

import asyncio
from collections.abc import Sequence
from typing import Any

import pytest

from eventsrc import EventId, TraceContext, current_trace, trace


def test_without_a_trace_the_current_trace_is_empty() -> None:
    assert current_trace() == TraceContext(None, (), {})


def test_omitted_values_are_inherited() -> None:
    with trace("c-1", "a-1@7.0", {"user": "ann", "ip": "::1"}) as outer:
        assert current_trace() is outer
        assert outer == TraceContext("c-1", ("a-1@7.0",), {"user": "ann", "ip": "::1"})
        with trace() as inner:
            assert inner == outer
        with trace("c-2", metadata={"user": "bob"}) as inner:
            assert inner == TraceContext("c-2", ("a-1@7.0",), {"user": "bob", "ip": "::1"})
        with trace(causation_id="b-2@1.0") as inner:
            assert inner == TraceContext("c-1", ("b-2@1.0",), {"user": "ann", "ip": "::1"})
        with trace(causation_id=()) as inner:
            assert inner.causation_ids == ()
        assert current_trace() is outer
    assert current_trace() == TraceContext()


def test_an_error_ends_the_trace() -> None:
    with pytest.raises(KeyError), trace("c-1"):
        raise KeyError
    assert current_trace() == TraceContext()


@pytest.mark.parametrize(
    ("causes", "kept"),
    [
        (EventId("a-1", 7, 0), ("a-1@7.0",)),
        ("a-1@7.0", ("a-1@7.0",)),
        ([EventId("a-1", 7, 0), "b-2@1.3"], ("a-1@7.0", "b-2@1.3")),
    ],
)
def test_causes_are_stored_as_text(causes: EventId | str | Sequence[EventId | str], kept: tuple[str, ...]) -> None:
    with trace(causation_id=causes) as inner:
        assert inner.causation_ids == kept


async def test_a_task_inherits_its_creators_trace_and_its_own_stays_local() -> None:
    inside, go_on = asyncio.Event(), asyncio.Event()

    async def work(name: str) -> tuple[str | None, str | None]:
        outer = current_trace().correlation_id
        with trace(name):
            inside.set()
            await go_on.wait()
            return outer, current_trace().correlation_id

    with trace("c-1"):
        task = asyncio.create_task(work("c-2"))
        await inside.wait()
        assert current_trace().correlation_id == "c-1"
    assert current_trace() == TraceContext()
    go_on.set()
    assert await task == ("c-1", "c-2")


async def test_a_thread_of_the_loop_inherits_the_trace() -> None:
    with trace("c-1"):
        assert (await asyncio.to_thread(current_trace)).correlation_id == "c-1"


def test_the_callers_metadata_is_copied() -> None:
    given = {"user": "ann"}
    with trace(metadata=given):
        given["user"] = "eve"
        assert current_trace().metadata == {"user": "ann"}


@pytest.mark.parametrize(
    ("arguments", "what"),
    [
        ({"correlation_id": 7}, "correlation_id is int"),
        ({"correlation_id": b"c"}, "correlation_id is bytes"),
        ({"metadata": {"n": 7}}, "metadata is int"),
        ({"metadata": {7: "n"}}, "a metadata key is int"),
        ({"metadata": {"n": None}}, "metadata is NoneType"),
        ({"causation_id": 7}, "int"),
        ({"causation_id": [7]}, "causation_id is int"),
        ({"causation_id": b"a-1@7.0"}, "causation_id is"),
    ],
)
def test_a_value_that_is_not_text_raises_type_error(arguments: dict[str, Any], what: str) -> None:
    with pytest.raises(TypeError, match=what), trace(**arguments):
        raise AssertionError("not reached")
    assert current_trace() == TraceContext()


def test_an_empty_metadata_key_raises_value_error() -> None:
    with pytest.raises(ValueError, match="key is empty"), trace(metadata={"": "a"}):
        raise AssertionError("not reached")


@pytest.mark.parametrize(
    "arguments",
    [
        {"correlation_id": "\ud800"},
        {"causation_id": "\ud800"},
        {"metadata": {"\ud800": ""}},
        {"metadata": {"a": "\ud800"}},
    ],
)
def test_a_text_that_cannot_be_stored_raises_value_error(arguments: dict[str, Any]) -> None:
    with pytest.raises(ValueError, match="lone surrogate"), trace(**arguments):
        raise AssertionError("not reached")
    assert current_trace() == TraceContext()
