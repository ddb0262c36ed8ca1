"""Credentials of every kind of source: what passes is tried again, what does not is named, and no secret is shown."""

from __future__ import annotations

import asyncio
import json
import logging
import re
import socket
import traceback
from collections.abc import AsyncIterator, Awaitable
from contextlib import AbstractAsyncContextManager, asynccontextmanager
from hashlib import sha1
from pathlib import Path
from typing import Any

import pytest
from aiobotocore.config import AioConfig
from botocore.credentials import SSOProvider
from support.proxy import Proxy, proxy_to
from support.sources import (
    SECRET,
    Environment,
    command,
    container,
    metadata,
    sts_error,
    web_identity,
)
from support.tables import fresh_name, store_on

from eventsrc import DynamoDBStore, StoreError, StoreRejected, StoreUnavailable
from eventsrc.stores.dynamodb.wire.signature import Credentials
from eventsrc.testing.contract.samples import fresh_stream, make_commit

ONCE = AioConfig(retries={"mode": "standard", "total_max_attempts": 1})

SOURCES: dict[str, tuple[Any, str]] = {  # and how an error names it
    "command": (command, "credential_process"),
    "container": (container, "source of the credentials"),
    "metadata": (metadata, "metadata service"),
    "web identity": (web_identity, "AssumeRoleWithWebIdentity"),
}

every_source = pytest.mark.parametrize("source", SOURCES)
both_clients = pytest.mark.parametrize("kind", ["signed", "sdk"])


@pytest.fixture
def environment(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> Environment:
    return Environment(monkeypatch, tmp_path)


@pytest.fixture
async def proxy(dynamodb_endpoint: str) -> AsyncIterator[Proxy]:
    async with proxy_to(dynamodb_endpoint) as proxy:
        yield proxy


@pytest.fixture(scope="module")
def table(dynamodb_endpoint: str) -> str:
    name = fresh_name()

    async def create() -> None:
        async with store_on(dynamodb_endpoint, name) as store:
            await store.create_table()

    asyncio.run(create())
    return name


@asynccontextmanager
async def opened(
    environment: Environment, kind: str, endpoint: str, table: str, deadline: float
) -> AsyncIterator[DynamoDBStore]:
    """Open a store whose client takes credentials from the environment, and create its table."""
    session = environment.session
    if kind == "signed":
        async with DynamoDBStore(table, endpoint_url=endpoint, session=session, deadline=deadline) as store:
            yield store
    else:
        async with (
            session.create_client("dynamodb", endpoint_url=endpoint, config=ONCE) as client,
            DynamoDBStore(table, client=client, deadline=deadline) as store,
        ):
            yield store


async def check_silent(call: Awaitable[object], kind: type[StoreError]) -> str:
    """Return the text of the error that a call raises. Assert that nothing about it contains the secret."""
    with pytest.raises(kind) as raised:
        await call
    errors: list[BaseException | None] = [raised.value]
    while errors:
        if error := errors.pop():
            shown = "".join([*traceback.format_exception(error), repr(error), repr(vars(error))])
            assert SECRET not in shown
            errors += [error.__cause__, error.__context__]
    return str(raised.value)


async def open_and_close(store: AbstractAsyncContextManager[Any]) -> None:
    async with store:
        pass


@both_clients
@every_source
async def test_a_source_that_fails_once_is_asked_again(
    environment: Environment, proxy: Proxy, table: str, source: str, kind: str
) -> None:
    async with SOURCES[source][0](environment) as given, opened(environment, kind, proxy.url, table, 30.0) as store:
        await store.append(make_commit(stream := fresh_stream()))
        proxy.operations.clear()
        await environment.expire()
        given.fail(1)
        await store.append(make_commit(stream, 2))
    assert proxy.counts == {"PutItem": 1}


@both_clients
@every_source
async def test_a_source_that_always_fails_is_a_definite_failure_that_names_it(
    environment: Environment, proxy: Proxy, table: str, source: str, kind: str
) -> None:
    make, name = SOURCES[source]
    async with make(environment) as given, opened(environment, kind, proxy.url, table, 2.5) as store:
        await environment.expire()
        given.fail(1000)
        assert name in await check_silent(store.append(make_commit(fresh_stream())), StoreUnavailable)
    assert proxy.counts == {}


@every_source
async def test_a_store_opens_although_a_source_fails_once(
    environment: Environment, proxy: Proxy, table: str, source: str
) -> None:
    async with SOURCES[source][0](environment) as given:
        given.fail(1)
        async with opened(environment, "signed", proxy.url, table, 30.0) as store:
            await store.append(make_commit(fresh_stream()))


@pytest.mark.parametrize("source", ["command", "container"])  # the SDK asks the others later
async def test_a_store_whose_source_always_fails_is_not_opened(environment: Environment, source: str) -> None:
    async with SOURCES[source][0](environment) as given:
        given.fail(1000)
        store = DynamoDBStore("ledger", endpoint_url="http://127.0.0.1:1", session=environment.session, deadline=0.5)
        text = await check_silent(open_and_close(store), StoreUnavailable)
    assert "credential" in text


async def test_a_source_that_hangs_does_not_hang_the_opening(environment: Environment) -> None:
    with socket.create_server(("127.0.0.1", 0)) as silent:
        environment.set(AWS_CONTAINER_CREDENTIALS_FULL_URI=f"http://127.0.0.1:{silent.getsockname()[1]}/credentials")
        store = DynamoDBStore("ledger", endpoint_url="http://127.0.0.1:1", session=environment.session, deadline=0.3)
        assert "no answer from the source" in await check_silent(open_and_close(store), StoreUnavailable)


@both_clients
@pytest.mark.parametrize("code", ["AccessDenied", "InvalidIdentityToken"])
async def test_a_role_that_is_refused_is_not_requested_again(
    environment: Environment, proxy: Proxy, table: str, kind: str, code: str
) -> None:
    async with (
        web_identity(environment, sts_error(403, code)) as sts,
        opened(environment, kind, proxy.url, table, 30.0) as store,
    ):
        sts.fail(1000)
        sts.requests.clear()  # of the opening
        text = await check_silent(store.append(make_commit(fresh_stream())), StoreRejected)
    assert "AssumeRoleWithWebIdentity" in text
    assert code in text
    assert len(sts.requests) == 1


@both_clients
async def test_a_failure_of_sts_is_not_taken_for_one_of_dynamodb(
    environment: Environment, proxy: Proxy, table: str, kind: str
) -> None:
    """A status of 500 of the service leaves an outcome unknown; one of STS does not."""
    async with (
        web_identity(environment, sts_error(500, "InternalFailure")) as sts,
        opened(environment, kind, proxy.url, table, 2.0) as store,
    ):
        sts.fail(1000)
        await check_silent(store.append(make_commit(fresh_stream())), StoreUnavailable)


@both_clients
async def test_no_credentials(environment: Environment, proxy: Proxy, table: str, kind: str) -> None:
    async with opened(environment, kind, proxy.url, table, 30.0) as store:
        proxy.operations.clear()
        for _ in range(2):
            text = await check_silent(store.append(make_commit(fresh_stream())), StoreRejected)
            assert "NoCredentialsError" in text
    assert proxy.counts == {}


def expired_sso(environment: Environment) -> None:
    cache = environment.folder / "sso"
    cache.mkdir()
    environment.patch.setattr(SSOProvider, "_SSO_TOKEN_CACHE_DIR", str(cache))
    token = {"accessToken": SECRET, "expiresAt": "2020-01-01T00:00:00Z", "startUrl": "https://sso.example.invalid"}
    name = sha1(token["startUrl"].encode()).hexdigest()
    (cache / f"{name}.json").write_text(json.dumps(token))
    sso = f"sso_start_url = {token['startUrl']}\nsso_region = us-east-1\nsso_account_id = 123456789012\n"
    environment.config.write_text(f"[profile work]\n{sso}sso_role_name = r\n")
    environment.set(AWS_PROFILE="work")


def missing_sso(environment: Environment) -> None:
    expired_sso(environment)
    for token in (environment.folder / "sso").iterdir():
        token.unlink()


def missing_profile(environment: Environment) -> None:
    environment.config.write_text("[profile other]\n")
    environment.set(AWS_PROFILE="work")


def unreadable_config(environment: Environment) -> None:
    environment.config.write_text(f"{SECRET}\n[profile work\n")


def partial_keys(environment: Environment) -> None:
    (environment.folder / "credentials").write_text(f"[default]\naws_access_key_id = {SECRET}\n")


def partial_variables(environment: Environment) -> None:
    environment.set(AWS_ACCESS_KEY_ID=SECRET)


def missing_command(environment: Environment) -> None:
    environment.config.write_text(f"[default]\ncredential_process = TOKEN={SECRET} run {SECRET}\n")


def missing_token(environment: Environment) -> None:
    environment.set(AWS_WEB_IDENTITY_TOKEN_FILE=str(environment.folder / "token"))
    environment.set(AWS_ROLE_ARN="arn:aws:iam::123456789012:role/r")


def missing_source_profile(environment: Environment) -> None:
    role = "role_arn = arn:aws:iam::123456789012:role/r\nsource_profile = base\n"
    environment.config.write_text(f"[profile work]\n{role}")
    environment.set(AWS_PROFILE="work")


def missing_certificates(environment: Environment) -> None:
    environment.set(AWS_ACCESS_KEY_ID="a", AWS_SECRET_ACCESS_KEY="b", AWS_CA_BUNDLE=str(environment.folder / "ca.pem"))


def damaged_certificates(environment: Environment) -> None:
    missing_certificates(environment)
    (environment.folder / "ca.pem").write_text(SECRET)


MISTAKES: dict[Any, tuple[str, str]] = {  # the code, and what the message names
    expired_sso: ("UnauthorizedSSOTokenError", "aws sso login.*profile work"),
    missing_sso: ("SSOTokenLoadError", "aws sso login.*profile work"),
    missing_profile: ("ProfileNotFound", "work"),
    unreadable_config: ("ConfigParseError", "/config"),
    partial_keys: ("PartialCredentialsError", "aws_secret_access_key.*/credentials"),
    partial_variables: ("PartialCredentialsError", "AWS_SECRET_ACCESS_KEY"),
    missing_command: ("CredentialRetrievalError", "command.*profile default in .*/config"),
    missing_token: ("CredentialRetrievalError", "/token"),
    missing_source_profile: ("InvalidConfigError", "base.*profile work"),
    missing_certificates: ("CertificateFile", r"/ca\.pem"),
    damaged_certificates: ("CertificateFile", r"/ca\.pem"),
}


@pytest.mark.parametrize("mistake", MISTAKES, ids=lambda mistake: mistake.__name__)
async def test_a_mistake_in_the_configuration_is_named(environment: Environment, mistake: Any) -> None:
    code, named = MISTAKES[mistake]
    mistake(environment)

    async def use() -> None:
        async with DynamoDBStore("ledger", endpoint_url="https://127.0.0.1:1", deadline=30.0) as store:
            await store.append(make_commit(fresh_stream()))

    text = await check_silent(use(), StoreRejected)
    assert text.startswith(code)
    assert re.search(named, text), text


@pytest.mark.parametrize(
    "endpoint",
    [
        f"http://ann:{SECRET}@127.0.0.1:8000",
        f"http://ann:{SECRET}@[::1",
        f"http://ann:{SECRET}",
        f"ann:{SECRET}@127.0.0.1:8000",
        f"https://dynamodb.example.invalid/{SECRET}",
        f"https://dynamodb.example.invalid?key={SECRET}",
    ],
)
async def test_the_password_of_an_endpoint_is_not_quoted(environment: Environment, endpoint: str) -> None:
    environment.set(AWS_ACCESS_KEY_ID="a", AWS_SECRET_ACCESS_KEY="b")
    await check_silent(open_and_close(DynamoDBStore("ledger", endpoint_url=endpoint)), StoreRejected)


async def test_the_log_of_this_library_does_not_have_what_a_command_printed(
    environment: Environment, caplog: pytest.LogCaptureFixture
) -> None:
    with caplog.at_level(logging.DEBUG, "eventsrc"):
        async with command(environment) as given:
            given.fail(1000)
            store = DynamoDBStore("ledger", endpoint_url="http://127.0.0.1:1", deadline=0.3)
            await check_silent(open_and_close(store), StoreUnavailable)
    assert not [record for record in caplog.records if record.name.startswith("eventsrc") and SECRET in str(record)]


def test_credentials_do_not_show_their_secrets() -> None:
    credentials = Credentials("AKIA1", SECRET, f"{SECRET}-token")
    assert SECRET not in f"{credentials!r} {credentials} {[credentials]}"
    assert "AKIA1" in repr(credentials)
