"""The verb that serves the studio on this machine, until it is interrupted."""

from __future__ import annotations

import getpass
import secrets

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
    found.add_argument("--port", type=int, default=8765, help="default: 8765; 0 for any that is free")
    found.add_argument("--token", default="", help="what a browser must know; drawn for another host than 127.0.0.1")
    found.add_argument("--write", action="store_true", help="allow to retry, skip and rebuild")


async def serve(app: App, output: Output, *, host: str, port: int, token: str, write: bool) -> int:
    """Serve the studio until it is interrupted. Raises UsageError if it cannot."""
    try:
        import uvicorn

        from ..studio import Studio
        from ..studio.guard import LOOPBACK
    except ImportError as error:
        raise UsageError(f"the studio needs more: pip install 'eventsrc[studio]' ({error})") from None
    is_local = host in LOOPBACK or host == "::1"
    if not is_local:
        token = token or secrets.token_urlsafe(16)
    user = getpass.getuser()
    studio = Studio(app, write=write, token=token, hosts=LOOPBACK if is_local else (), actor=lambda scope: user)
    config = uvicorn.Config(
        studio, host=host, port=port, log_level="warning", lifespan="off", timeout_graceful_shutdown=1
    )
    try:
        listening = config.bind_socket()
    except SystemExit:
        raise UsageError(f"port {port} of {host} is in use; give another one with --port") from None
    name = f"[{host}]" if ":" in host else host
    address = f"http://{name}:{listening.getsockname()[1]}/" + (f"?token={token}" if token else "")
    output.show(f"{address}\nIt serves until it is interrupted.", {"address": address})
    await uvicorn.Server(config).serve(sockets=[listening])
    return 0
