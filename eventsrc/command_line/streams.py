"""Verbs about streams: list them, show their events and states, compare states, and follow what is stored."""

from __future__ import annotations

import asyncio
from contextlib import aclosing
from datetime import datetime
from typing import Any, NamedTuple

from ..errors import AggregateNotFound, StoredDataError
from ..inspection import App, UsageError, find_feed
from ..inspection.events import describe_events, read_events, show_value
from ..inspection.states import find_changes, load_state
from ..store import MAX_VERSION, Commit, Store
from ..stores.limits import check_version
from ..stores.ordered import OrderedStore
from ..stream_id import category_of
from ..trace_context import trace_id_of
from ..tracing.wording import plain
from .output import Output
from .verbs import Verbs, parse_time

_DONE, _DIFFERENT = 0, 1


def add_verbs(verbs: Verbs) -> None:
    """Add the verbs of this module to the command line."""
    found = verbs.add(
        "streams",
        lambda app, output, given: list_streams(app, output, category=given.category, prefix=given.prefix),
        "list streams with their versions",
        "streams --store sqlite:///shop.db --category order",
    )
    found.add_argument("--category", default="", help="only streams of this category")
    found.add_argument("--prefix", default="", help="only streams that begin so")

    found = verbs.add(
        "show",
        lambda app, output, given: show_stream(app, output, given.stream, at=given.at),
        "print the events of a stream, up to a version or a time",
        "show --store sqlite:///shop.db order-7@17",
    )
    found.add_argument("stream", metavar="STREAM[@VERSION]")
    found.add_argument("--at", type=parse_time, metavar="TIME", help="a time, as 2026-01-31T12:00:00Z")

    found = verbs.add(
        "state",
        lambda app, output, given: show_state(app, output, given.stream),
        "print the state of a stream, at its end or at a version",
        "state --app shop.main:app order-7@17",
    )
    found.add_argument("stream", metavar="STREAM[@VERSION]")

    found = verbs.add(
        "diff",
        lambda app, output, given: compare_states(app, output, given.stream, given.before, given.after),
        "print what differs between two states of a stream",
        "diff --app shop.main:app order-7 @12 @17",
    )
    found.add_argument("stream", metavar="STREAM")
    found.add_argument("before", metavar="@VERSION")
    found.add_argument("after", metavar="@VERSION")

    found = verbs.add(
        "tail",
        lambda app, output, given: follow(
            app,
            output,
            Wanted(given.category, given.stream, tuple(given.tag), given.correlation),
            after=given.after,
        ),
        "print events as they are stored, until it is interrupted",
        "tail --store sqlite:///shop.db --category order --tag order.placed",
    )
    found.add_argument("--category", default="", help="only streams of this category")
    found.add_argument("--stream", default="", metavar="PREFIX", help="only streams that begin so")
    about_tag = "only commits that have an event with this tag; may be repeated"
    found.add_argument("--tag", action="append", default=[], help=about_tag)
    found.add_argument("--correlation", default="", metavar="ID", help="only the trace with this correlation id")
    about_after = "begin after this position, or with all stored commits (start); otherwise with new ones"
    found.add_argument("--after", metavar="POSITION|start", help=about_after)


async def list_streams(app: App, output: Output, *, category: str, prefix: str) -> int:
    """Print the streams of all stores with their versions."""
    for name, store in app.stores.items():
        async with aclosing(find_feed(name, store).heads()) as pages:
            async for heads in pages:
                for head in heads:
                    if head.stream.startswith(prefix) and category in ("", category_of(head.stream)):
                        found = {"store": name, "stream": head.stream, "version": head.version}
                        output.show(f"{plain(head.stream)}  @{head.version}  {plain(name)}", found)
    return _DONE


async def show_stream(app: App, output: Output, stream: str, *, at: datetime | None) -> int:
    """Print the events of a stream, or those up to a version, `account-a-1@17`, or up to a time."""
    stream, version = split_version(stream)
    if version is not None:
        await app.locate(stream, version=version)
    found = False
    for name, store in app.stores.items():
        async with aclosing(store.read(stream, until=version or MAX_VERSION)) as commits:
            async for commit in commits:
                if at is not None and commit.at > at:
                    break
                found = True
                show_commit(app, output, name, commit)
    if not found:
        until = f" up to {at.isoformat()}" if at is not None else ""
        raise AggregateNotFound(stream, f"it has no commit in {', '.join(app.stores)}{until}")
    return _DONE


def show_commit(app: App, output: Output, store: str, commit: Commit) -> None:
    """Print the events of a commit, each on a line."""
    try:
        events, damage = read_events(commit), ""
        about = describe_events(commit, aggregates=app.aggregates)
    except (StoredDataError, ValueError) as error:
        events, damage, about = [], str(error), []
    output.show(
        "\n".join(_lines(commit, events, about, damage)),
        {
            "store": store,
            "stream": commit.stream,
            "version": commit.version,
            "time": commit.at.isoformat(),
            "correlation_id": commit.correlation_id,
            "causation_ids": commit.causation_ids,
            "command_id": commit.command_id,
            "metadata": commit.metadata,
            "events": events,
            "damage": damage,
        },
    )


def _lines(commit: Commit, events: list[dict[str, Any]], about: list[str], damage: str) -> list[str]:
    start = f"{plain(commit.stream)}@{commit.version}"
    time = commit.at.isoformat(timespec="milliseconds").replace("+00:00", "Z")
    if damage:
        return [f"{start}  {time}  unreadable: {plain(damage)}"]
    return [
        f"{start}.{index}  {time}  {plain(str(event.get('$', '')))}  {text}".rstrip()
        for index, (event, text) in enumerate(zip(events, about, strict=True))
    ]


async def show_state(app: App, output: Output, stream: str) -> int:
    """Print the state of a stream at its end, or at a version: `account-a-1@17`."""
    stream, version = split_version(stream)
    _, store, _ = await app.locate(stream, version=version or 1)
    state = await load_state(app, store, stream, version)
    output.show("\n".join(f"{name} = {show_value(value)}" for name, value in state.items()), state)
    return _DONE


async def compare_states(app: App, output: Output, stream: str, before: str, after: str) -> int:
    """Print the fields of a state that differ between two versions: `account-a-1 @12 @17`. Return 1 if some do."""
    versions = [split_version(f"{stream}{each}")[1] for each in (before, after)]
    if None in versions:
        raise UsageError(f"{before} {after} are not versions; write @12 @17")
    _, store, _ = await app.locate(stream, version=max(version or 1 for version in versions))
    one, other = [await load_state(app, store, stream, version) for version in versions]
    changed = find_changes(one, other)
    for name, (old, new) in changed.items():
        text = f"{name}: {show_value(old)} -> {show_value(new)}"
        output.show(text, {"field": name, "before": old, "after": new})
    return _DIFFERENT if changed else _DONE


class Wanted(NamedTuple):
    """The commits to print. An empty value is for all."""

    category: str = ""
    prefix: str = ""
    tags: tuple[str, ...] = ()
    trace_id: str = ""

    def has(self, commit: Commit) -> bool:
        return (
            commit.stream.startswith(self.prefix)
            and (not self.tags or not set(self.tags).isdisjoint(commit.tags))
            and self.trace_id in ("", trace_id_of(commit))
        )


async def follow(app: App, output: Output, wanted: Wanted, *, after: str | None) -> int:
    """Print commits as they are stored, until it is interrupted."""
    starts = {name: await _find_start(name, store, after) for name, store in app.stores.items()}

    async def follow_store(name: str, store: Store) -> None:
        categories = (wanted.category,) if wanted.category else ()
        async with aclosing(find_feed(name, store).feed(after=starts[name], categories=categories)) as batches:
            async for batch in batches:
                for commit in filter(wanted.has, batch.commits):
                    show_commit(app, output, name, commit)

    await asyncio.gather(*(follow_store(name, store) for name, store in app.stores.items()))
    return _DONE


async def _find_start(name: str, store: Store, after: str | None) -> str:
    """Return the checkpoint after which a store is followed. Raises UsageError."""
    feed = find_feed(name, store)
    if after is None:
        return await feed.end()
    if after == "start":
        return ""
    if not isinstance(store, OrderedStore):
        raise UsageError(f"the store {name} counts no positions; write --after start, or leave it out")
    if not (after.isascii() and after.isdecimal()) or int(after) > await store.last_position():
        raise UsageError(f"{after!r} is not a position of the store {name}; write a number up to its last one")
    return after if int(after) else ""


def split_version(text: str) -> tuple[str, int | None]:
    """Return stream and version of `account-a-1@17`; None as the version of a stream alone. Raises UsageError."""
    stream, at, version = text.rpartition("@")
    if not at:
        return text, None
    try:
        check_version(number := int(version))
    except ValueError:
        raise UsageError(f"{text!r} has no version after '@'; write a number from 1, as in {stream}@17") from None
    return stream, number
