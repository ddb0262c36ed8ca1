"""The verb that serves the studio on this machine, until it is interrupted."""

from __future__ import annotations

import argparse
import asyncio
import getpass
import secrets
import socket

from ..inspection import App, UsageError
from .output import Output
from .verbs import Verbs


def add_verbs(verbs: Verbs) -> None:
    """Add the verb of this module to the command line."""
    found = verbs.add(
        "studio",
        lambda app, output, given: serve(
            app, output, host=given.host, port=given.port, token=given.token, write=given.write
        ),
        "serve pages about streams, states, traces and processors, for a browser",
        "studio --app shop.main:app --write",
    )
    found.add_argument("--host", default="127.0.0.1", help="the address to serve (default: 127.0.0.1, this machine)")
    found.add_argument("--port", type=_parse_port, default=8765, help="default: 8765; 0 for any that is free")
    found.add_argument("--token", default="", help="what a browser must know; drawn for another host than 127.0.0.1")
    found.add_argument("--write", action="store_true", help="allow to retry, skip and rebuild")


async def serve(app: App, output: Output, *, host: str, port: int, token: str, write: bool) -> int:
    """Serve the studio until it is interrupted. Raises UsageError if it cannot."""
    try:
        import uvicorn

        from ..studio import Studio
        from ..studio.guard import LOOPBACK
    except ModuleNotFoundError as error:
        raise UsageError(f"the studio needs {error.name}: pip install 'eventsrc[studio]'") from None
    except ImportError as error:
        raise UsageError(str(error)) from None
    is_local = host in LOOPBACK or host == "::1"
    if not is_local:
        token = token or secrets.token_urlsafe(16)
    user = getpass.getuser()
    studio = Studio(app, write=write, token=token, hosts=LOOPBACK if is_local else (), actor=lambda scope: user)
    config = uvicorn.Config(studio, log_level="warning", lifespan="off", timeout_graceful_shutdown=5)
    try:
        listening = socket.create_server((host, port), family=socket.AF_INET6 if ":" in host else socket.AF_INET)
    except OSError as error:
        raise UsageError(f"{host} cannot be served at port {port}: {error.strerror or error}") from None
    name = f"[{host}]" if ":" in host else host
    address = f"http://{name}:{listening.getsockname()[1]}/" + (f"?token={token}" if token else "")
    output.show(f"{address}\nIt serves until it is interrupted.", {"address": address})
    server = uvicorn.Server(config)
    serving = asyncio.create_task(server.serve(sockets=[listening]))
    try:
        while not (server.should_exit or serving.done()):  # noqa: ASYNC110  # the server has no event for it
            await asyncio.sleep(0.1)
    finally:
        await studio.aclose()  # before the server waits for open pages, and before the stores close
        await serving
    return 0


def _parse_port(text: str) -> int:
    if not text.isdecimal() or int(text) > 65535:
        raise argparse.ArgumentTypeError(f"{text!r} is not a port; give a number up to 65535")
    return int(text)
