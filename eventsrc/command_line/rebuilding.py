"""Verbs that compare a processor with its store, and that build its read model again."""

from __future__ import annotations

import argparse
from typing import Any

import msgspec

from ..errors import EventsrcError, StreamsParked
from ..inspection import App, UsageError
from ..processing import Processor, rebuild, verify
from ..processing.parking import describe
from ..processing.rebuild import CannotRebuild, Plan, plan_rebuild
from ..tracing.wording import plain
from .output import Output
from .processors import show_parked_stream
from .screen import draw_bar
from .verbs import Verbs, parse_rate

_DONE, _PROBLEM = 0, 1


def add_verbs(verbs: Verbs) -> None:
    """Add the verbs of this module to the command line."""
    found = verbs.add(
        "verify",
        lambda app, output, given: show_differences(app, output, given.processor, rate=given.rate),
        "compare every stream of the store with a processor's positions",
        "verify --app shop.main:app mail",
    )
    _add_processor(found, "streams that are compared in a second, at most")

    found = verbs.add_change(
        "rebuild",
        lambda app, output, given: (
            show_plan(app, output, given.processor)
            if given.dry_run
            else rebuild_processor(app, output, given.processor, on_error=given.on_error, rate=given.rate)
        ),
        "build the read model of a processor while the active version runs, then switch to it",
        "rebuild --app shop.main:app wealth@2",
        target=lambda app, given: app.find_processor(given.processor).name,
    )
    _add_processor(found, "commits that are read in a second, at most")
    about = "stop at a handler that fails, or park the stream and switch all the same (default: stop)"
    found.add_argument("--on-error", choices=("stop", "park"), default="stop", help=about)


def _add_processor(parser: argparse.ArgumentParser, about_rate: str) -> None:
    parser.add_argument("processor", metavar="PROCESSOR", help="its name, as mail@1, or its tag")
    parser.add_argument("--rate", type=parse_rate, metavar="NUMBER", help=about_rate)


async def show_differences(app: App, output: Output, name: str, *, rate: float | None) -> int:
    """Print how the streams of the store differ from the positions of a processor. Return 1 if they do.

    Nothing is handled. The processor is registered as by a run, if it has never run.
    """
    processor = app.find_processor(name)
    found = await verify(processor, deliver=False, rate=rate)
    lines = [
        f"{processor.name}: {found.streams:,} streams, {found.missing:,} commits not handled, {found.parked:,} parked"
    ]
    lines += [
        f"lost: {plain(head.stream)} ends at version {head.version}, before what was handled" for head in found.lost
    ]
    lines += [f"changed: {plain(head.stream)} has another commit at the handled version" for head in found.changed]
    if found.missing:
        lines.append(f"run {processor.name}, which handles the missing commits")
    if found.lost or found.changed:
        lines.append(f"the store was restored; forget {processor.name} and run it again, or rebuild a new version")
    heads = {name: [head._asdict() for head in getattr(found, name)] for name in ("lost", "changed")}
    counts = {name: getattr(found, name) for name in ("streams", "missing", "parked")}
    output.show("\n".join(lines), {"processor": processor.name} | counts | heads)
    return _PROBLEM if found.missing or found.parked or found.lost or found.changed else _DONE


async def show_plan(app: App, output: Output, name: str) -> int:
    """Print what a rebuild would do."""
    processor = app.find_processor(name)
    plan = await _plan(processor)
    _check_not_active(processor, plan.active)
    tag = processor.projection.tag
    count = f"{plan.total - plan.handled:,} of {plan.total:,} commits"
    if plan.active is None:
        text = f"{processor.name} would handle {count} and become active; no version of {tag} is active"
    else:
        text = f"{processor.name} would handle {count} while {tag}@{plan.active} continues, and then replace it"
    output.show(text, {"processor": processor.name} | plan._asdict())
    return _DONE


async def _plan(processor: Processor[Any]) -> Plan:
    try:
        return await plan_rebuild(processor)
    except CannotRebuild as error:
        raise UsageError(str(error)) from None


def _check_not_active(processor: Processor[Any], active: int | None) -> None:
    """Raise UsageError if readers use this version: a rebuild would only fence the process that runs it."""
    if active == processor.projection.version:
        raise UsageError(f"{processor.name} is active, so run it; to build it again, raise its version")


async def rebuild_processor(app: App, output: Output, name: str, *, on_error: Any, rate: float | None) -> int:
    """Rebuild a processor, with its progress on standard error. Return 1 if it fails, or has parked streams."""
    processor = app.find_processor(name)
    handled, failure = 0, ""
    _check_not_active(processor, (await _plan(processor)).active)

    def report(done: int, total: int) -> None:
        nonlocal handled
        handled = done
        output.screen.show(draw_bar(processor.name, done, total))

    try:
        await rebuild(processor, progress=report, on_error=on_error, rate=rate)
    except StreamsParked:
        pass
    except CannotRebuild as error:
        raise UsageError(str(error)) from None
    except EventsrcError:
        raise
    except Exception as error:  # noqa: BLE001  # whatever a handler raises
        failure = describe(error)
    finally:
        output.screen.show("")
    return await _show_result(output, processor, handled, failure)


async def _show_result(output: Output, processor: Processor[Any], handled: int, failure: str) -> int:
    projection = processor.projection
    active, parked = await processor.checkpoints.active(projection.tag), await processor.parked()
    if not output.as_json:
        for each in parked:
            show_parked_stream(output, processor.name, each)
    if failure:
        text = f"{processor.name} failed: {plain(failure)}; fix the handler and rebuild again, or give --on-error park"
    else:
        text = f"{processor.name} has handled {handled:,} commits"
    in_use = "no version" if active is None else f"{projection.tag}@{active}"
    result = {"handled": handled, "active": active, "parked": msgspec.to_builtins(parked), "error": failure}
    output.show(f"{text}; {in_use} is active", {"processor": processor.name} | result)
    return _PROBLEM if failure or parked else _DONE
