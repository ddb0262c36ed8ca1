"""`python -m eventsrc.local`: DynamoDB Local in the foreground."""

from __future__ import annotations

import argparse
import asyncio
import logging
import signal
import sys
from contextlib import suppress

from ..log import log
from . import DynamoDBLocalUnavailable, Provider, start_server


async def _serve(provider: Provider | None, path: str | None, port: int) -> None:
    loop, task = asyncio.get_running_loop(), asyncio.current_task()
    assert task is not None
    for number in (signal.SIGINT, signal.SIGTERM):
        loop.add_signal_handler(number, task.cancel)
    with suppress(asyncio.CancelledError):
        async with start_server(provider, path, port) as local:
            print(local.endpoint_url, flush=True)
            await asyncio.Event().wait()


def main() -> None:
    """Start a server, print its endpoint, and run until Ctrl-C or SIGTERM."""
    parser = argparse.ArgumentParser(prog="python -m eventsrc.local", description="Run DynamoDB Local.")
    parser.add_argument("--port", type=int, default=0, help="default: any free port")
    parser.add_argument("--path", help="a folder to keep the data in; default: in memory")
    parser.add_argument(
        "--provider", choices=["docker", "jar"], help="default: Docker if it is available, otherwise the jar"
    )
    options = parser.parse_args()
    logging.basicConfig(format="%(message)s")
    log.setLevel(logging.INFO)
    try:
        asyncio.run(_serve(options.provider, options.path, options.port))
    except (DynamoDBLocalUnavailable, ValueError) as error:
        sys.exit(str(error))


if __name__ == "__main__":
    main()
