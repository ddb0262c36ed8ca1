"""Sources of credentials that fail when a test says so: a command, and HTTP servers in place of those of AWS."""

from __future__ import annotations

import asyncio
import json
import os
import shlex
from collections.abc import AsyncIterator, Callable
from contextlib import asynccontextmanager, suppress
from datetime import UTC, datetime, timedelta
from functools import cached_property
from pathlib import Path
from typing import Any

import aiobotocore.session
import pytest

from eventsrc.stores.dynamodb.wire.session import core_session

from .tables import session as shared_session

Answer = tuple[int, str]
SECRET = "hunter2-in-the-output"


def temporary(**more: str) -> dict[str, Any]:
    """Return credentials that the SDK renews before each request, because they expire in a minute."""
    expiration = (datetime.now(UTC) + timedelta(minutes=1)).strftime("%Y-%m-%dT%H:%M:%SZ")
    keys = {"AccessKeyId": "local", "SecretAccessKey": "local", "Token": "t", "SessionToken": "t"}
    return keys | {"Expiration": expiration} | more


class Environment:
    """The environment of the SDK, without that of this machine."""

    def __init__(self, patch: pytest.MonkeyPatch, folder: Path) -> None:
        for name in os.environ:
            if name.startswith("AWS_"):
                patch.delenv(name)
        self.patch, self.folder = patch, folder
        self.config = folder / "config"
        self.set(AWS_CONFIG_FILE=str(self.config), AWS_SHARED_CREDENTIALS_FILE=str(folder / "credentials"))
        self.set(AWS_DEFAULT_REGION="us-east-1", AWS_EC2_METADATA_DISABLED="true", HOME=str(folder))

    def set(self, **variables: str) -> None:
        for name, value in variables.items():
            self.patch.setenv(name, value)

    @cached_property
    def session(self) -> Any:
        """A session of its own, which shares the parsed service models with other tests."""
        own = aiobotocore.session.get_session()
        own.register_component("data_loader", core_session(shared_session()).get_component("data_loader"))
        return own

    async def expire(self) -> None:
        """Make the SDK renew the credentials that it has before the next request."""
        found = await self.session.get_credentials()
        if getattr(found, "_expiry_time", None) is not None:
            found._expiry_time = datetime.now(UTC) + timedelta(minutes=1)


class Command:
    """A program for `credential_process`, which fails and prints a secret as often as a test wants."""

    def __init__(self, environment: Environment) -> None:
        self._failures = environment.folder / "failures"
        output, script = environment.folder / "output", environment.folder / "command"
        output.write_text(json.dumps(temporary() | {"Version": 1}))
        failed, printed = shlex.quote(str(self._failures)), shlex.quote(str(output))
        script.write_text(
            f"n=$(cat {failed})\n"
            f"if [ $n -gt 0 ]; then echo $((n-1)) > {failed}; echo {SECRET} >&2; exit 1; fi\ncat {printed}\n"
        )
        self.fail(0)
        environment.config.write_text(f"[profile work]\ncredential_process = sh {script} {SECRET}\n")
        environment.set(AWS_PROFILE="work")

    def fail(self, times: int) -> None:
        self._failures.write_text(str(times))


class Server:
    """An HTTP server whose answers a function gives. It fails as often as a test wants."""

    def __init__(self, answer: Callable[[str], Answer], failure: Answer) -> None:
        self._answer, self._failure, self._failures = answer, failure, 0
        self.url = ""
        self.requests: list[str] = []

    def fail(self, times: int) -> None:
        self._failures = times

    async def serve(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        try:
            with suppress(ConnectionError, asyncio.IncompleteReadError):
                await self._reply(reader, writer)
        finally:
            writer.close()

    async def _reply(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        head = (await reader.readuntil(b"\r\n\r\n")).decode()
        path = head.split(" ")[1]
        self.requests.append(path)
        status, body = self._answer(path)
        if self._failures:
            self._failures -= 1
            status, body = self._failure
        writer.write(f"HTTP/1.1 {status} x\r\nContent-Length: {len(body)}\r\nConnection: close\r\n\r\n{body}".encode())
        await writer.drain()


@asynccontextmanager
async def serving(server: Server) -> AsyncIterator[Server]:
    tasks: set[asyncio.Task[None]] = set()

    def accept(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        tasks.add(asyncio.ensure_future(server.serve(reader, writer)))

    listener = await asyncio.start_server(accept, "127.0.0.1", 0)
    server.url = f"http://127.0.0.1:{listener.sockets[0].getsockname()[1]}"
    try:
        yield server
    finally:
        listener.close()
        for task in tasks:
            task.cancel()
        await asyncio.gather(*tasks, return_exceptions=True)
        await asyncio.sleep(0)  # the closed connections are released


@asynccontextmanager
async def command(environment: Environment) -> AsyncIterator[Command]:
    yield Command(environment)


@asynccontextmanager
async def container(environment: Environment) -> AsyncIterator[Server]:
    """The endpoint of ECS and EKS. A failure is an answer without keys, which the SDK does not request again."""
    async with serving(Server(lambda _: (200, json.dumps(temporary())), (200, json.dumps({"x": SECRET})))) as server:
        environment.set(AWS_CONTAINER_CREDENTIALS_FULL_URI=f"{server.url}/credentials")
        yield server


@asynccontextmanager
async def metadata(environment: Environment) -> AsyncIterator[Server]:
    """The metadata service of EC2."""

    def answer(path: str) -> Answer:
        if path.endswith("/token"):
            return 200, "token"
        return 200, json.dumps(temporary(Code="Success")) if path.endswith("/role-1") else "role-1"

    async with serving(Server(answer, (503, SECRET))) as server:
        environment.set(AWS_EC2_METADATA_SERVICE_ENDPOINT=f"{server.url}/", AWS_EC2_METADATA_DISABLED="false")
        yield server


def _sts(path: str) -> Answer:
    keys = "".join(f"<{name}>{value}</{name}>" for name, value in temporary().items() if name != "Token")
    result = f"<AssumeRoleWithWebIdentityResult><Credentials>{keys}</Credentials></AssumeRoleWithWebIdentityResult>"
    return 200, f"<AssumeRoleWithWebIdentityResponse>{result}</AssumeRoleWithWebIdentityResponse>"


def sts_error(status: int, code: str) -> Answer:
    return status, f"<ErrorResponse><Error><Code>{code}</Code><Message>{SECRET}</Message></Error></ErrorResponse>"


UNREACHABLE = sts_error(400, "IDPCommunicationError")


@asynccontextmanager
async def web_identity(environment: Environment, failure: Answer = UNREACHABLE) -> AsyncIterator[Server]:
    """STS, for a role with a web identity token, as in EKS."""
    token = environment.folder / "token"
    token.write_text(SECRET)
    async with serving(Server(_sts, failure)) as server:
        environment.set(AWS_ENDPOINT_URL_STS=server.url, AWS_WEB_IDENTITY_TOKEN_FILE=str(token))
        environment.set(AWS_ROLE_ARN="arn:aws:iam::123456789012:role/r", AWS_MAX_ATTEMPTS="1")
        yield server
