"""Verbs about processors: their status, and the streams that they have parked."""

from __future__ import annotations

import argparse
import sys

import msgspec

from ..errors import StreamParked
from ..inspection import App, UsageError
from ..processing import Parked, status
from ..tracing.wording import plain
from .output import Output
from .streams import show_commit, split_version
from .verbs import Verbs

_DONE, _PROBLEM = 0, 1


def add_verbs(verbs: Verbs) -> None:
    """Add the verbs of this module to the command line."""
    verbs.add(
        "status",
        lambda app, output, _: show_status(app, output),
        "print the status of the app's processors",
        "status --app shop.main:app",
    )
    parked = verbs.group("parked", "look at parked streams, and release them")
    parked.add(
        "list",
        lambda app, output, _: list_parked(app, output),
        "list the parked streams of all processors",
        "parked list --app shop.main:app",
    )
    found = parked.add(
        "show",
        lambda app, output, given: show_parked(app, output, given.processor, given.stream),
        "print why a stream is parked, and the commit that failed",
        "parked show --app shop.main:app mail@1 order-7",
    )
    _add_stream(found)
    found = parked.add_change(
        "retry",
        lambda app, output, given: retry_parked(app, output, given.processor, given.stream, dry_run=given.dry_run),
        "handle a parked stream again",
        "parked retry --app shop.main:app mail@1 order-7",
        target=_find_stream,
    )
    _add_stream(found)
    found = parked.add_change(
        "skip",
        lambda app, output, given: skip_parked(
            app, output, given.processor, given.stream, reason=given.reason, dry_run=given.dry_run
        ),
        "skip the commit at which a stream is parked",
        "parked skip --app shop.main:app mail@1 order-7@3 --reason 'an address that does not exist'",
        target=_find_stream,
    )
    _add_stream(found, "STREAM@VERSION")
    found.add_argument("--reason", required=True, type=_parse_reason, help="why it is skipped; it is stored")


def _add_stream(parser: argparse.ArgumentParser, shown: str = "STREAM") -> None:
    parser.add_argument("processor", metavar="PROCESSOR", help="its name, as mail@1, or its tag")
    parser.add_argument("stream", metavar=shown)


def _parse_reason(text: str) -> str:
    if not text.strip():
        raise argparse.ArgumentTypeError("the reason is empty; say why, for later readers of the read model")
    return text


def _find_stream(app: App, given: argparse.Namespace) -> str:
    app.find_processor(given.processor)  # before anything is asked
    return str(given.stream)


async def show_status(app: App, output: Output) -> int:
    """Print the status of each processor. Return 1 if one of them has a problem."""
    if not app.processors:
        raise UsageError("no processors are known; give them with --app")
    found = [await status(processor) for processor in app.processors]
    for each in found:
        lag = "lag unknown" if each.lag_seconds is None else f"lag {each.lag_seconds:.1f} s"
        version = "active" if each.active else "not active"
        version += "" if any(each.slots.values()) else ", run by nobody"
        problems = "; ".join(each.problems) or "no problems"
        text = f"{each.name}  {version}{', paused' if each.paused else ''}  {lag}  {each.parked} parked  {problems}"
        output.show(plain(text), msgspec.to_builtins(each) | {"problems": list(each.problems)})
    return _PROBLEM if any(each.problems for each in found) else _DONE


async def list_parked(app: App, output: Output) -> int:
    """Print the parked streams of all processors. Return 1 if there are some."""
    if not app.processors:
        raise UsageError("no processors are known; give them with --app")
    found = [(each.name, parked) for each in app.processors for parked in await each.parked()]
    for name, parked in found:
        show_parked_stream(output, name, parked)
    return _PROBLEM if found else _DONE


def show_parked_stream(output: Output, name: str, parked: Parked) -> None:
    """Print a parked stream of the processor with this name, on a line."""
    text = f"{name}  {parked.stream}@{parked.version}  {parked.attempts} attempts  {parked.at:%Y-%m-%d %H:%M:%SZ}"
    output.show(f"{plain(text)}  {plain(parked.error)}", {"processor": name} | msgspec.to_builtins(parked))


async def show_parked(app: App, output: Output, name: str, stream: str) -> int:
    """Print why a stream is parked, and the commit that could not be handled."""
    processor = app.find_processor(name)
    for parked in await processor.parked():
        if parked.stream == stream:
            output.show(parked.error, {"processor": processor.name} | msgspec.to_builtins(parked))
            async for commit in processor.store.read(stream, after=parked.version - 1, until=parked.version):
                show_commit(app, output, processor.name, commit)
            return _DONE
    return _fail_not_parked(processor.name, stream)


def _fail_not_parked(processor: str, stream: str) -> int:
    print(
        f"eventsrc: {processor} has not parked {stream}; `eventsrc parked list` prints what is parked", file=sys.stderr
    )
    return _PROBLEM


async def retry_parked(app: App, output: Output, name: str, stream: str, *, dry_run: bool) -> int:
    """Handle a parked stream again. Return 1 if a handler failed again."""
    processor = app.find_processor(name)
    if dry_run:
        return await show_parked(app, output, name, stream)
    if all(each.stream != stream for each in await processor.parked()):
        return _fail_not_parked(processor.name, stream)
    try:
        await processor.retry(stream)
    except StreamParked as error:
        again = [each.error for each in await processor.parked() if each.stream == error.stream]
        text = f"{stream} is parked again at version {error.version}: {plain(', '.join(again))}"
        output.show(text, {"processor": processor.name, "stream": stream, "parked": True})
        return _PROBLEM
    except (ValueError, RuntimeError, TimeoutError) as error:
        print(f"eventsrc: {error}", file=sys.stderr)
        return _PROBLEM
    output.show(f"{stream} is handled to its end", {"processor": processor.name, "stream": stream, "parked": False})
    return _DONE


async def skip_parked(app: App, output: Output, name: str, commit: str, *, reason: str, dry_run: bool) -> int:
    """Skip the commit at which a stream is parked. Return 1 if a handler failed at a later one.

    A repeated call skips nothing more, because the commit is named with its version.
    """
    processor, (stream, version) = app.find_processor(name), split_version(commit)
    if version is None:
        raise UsageError(f"{commit} has no version; write {commit}@VERSION, as `eventsrc parked list` prints it")
    if dry_run:
        return await show_parked(app, output, name, stream)
    try:
        await processor.skip(stream, reason, version=version)
    except (StreamParked, ValueError, RuntimeError, TimeoutError) as error:
        if not isinstance(error, StreamParked):
            print(f"eventsrc: {error}", file=sys.stderr)
            return _PROBLEM
    parked = [each for each in await processor.parked() if each.stream == stream]
    text = f"{commit} is skipped" + (f"; {stream} is parked at version {parked[0].version}" if parked else "")
    output.show(text, {"processor": processor.name, "stream": stream, "parked": bool(parked)})
    return _PROBLEM if parked else _DONE
