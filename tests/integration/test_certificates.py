"""Certificates: every call trusts those that the SDK trusts, checks the name, and reports a refusal at once."""

from __future__ import annotations

import ssl
from collections.abc import AsyncIterator, Awaitable, Callable
from contextlib import AsyncExitStack
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import Any

import aiobotocore
import pytest
import trustme
from cryptography import x509
from cryptography.hazmat.primitives import hashes, serialization
from cryptography.hazmat.primitives.asymmetric import ec
from cryptography.x509.oid import NameOID
from support.tables import checkpoints_on, fresh_name, new_session, session, store_on
from support.tls import encrypted, tunnel

from eventsrc import DynamoDBStore, StoreRejected
from eventsrc.stores.dynamodb.export.files import Bucket, open_s3
from eventsrc.testing.contract.samples import expect_stored, fresh_stream, make_commit

AUTHORITY, STRANGER = trustme.CA(), trustme.CA()
NOW = datetime.now(UTC)
REFUSED = {
    "unknown": (STRANGER.issue_cert("localhost"), "set AWS_CA_BUNDLE"),
    "name": (AUTHORITY.issue_cert("elsewhere.example"), "use an endpoint that it names"),
    "expired": (
        AUTHORITY.issue_cert("localhost", not_before=NOW - timedelta(days=9), not_after=NOW - timedelta(days=2)),
        "renew it",
    ),
}
SETTINGS = ("AWS_CA_BUNDLE", "REQUESTS_CA_BUNDLE", "AWS_PROFILE")

each_refusal = pytest.mark.parametrize("kind", REFUSED)


@pytest.fixture(autouse=True)
def bundle(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    for name in SETTINGS:
        monkeypatch.delenv(name, raising=False)
    path = tmp_path / "ca.pem"
    AUTHORITY.cert_pem.write_to_path(str(path))
    monkeypatch.setenv("AWS_CA_BUNDLE", str(path))
    return path


@pytest.fixture
async def table(dynamodb_endpoint: str) -> AsyncIterator[str]:
    async with store_on(dynamodb_endpoint, fresh_name()) as store:
        await store.create_table(stream=True)
        yield store.table.name


async def read(store: DynamoDBStore) -> None:
    async for _ in store.read(fresh_stream()):
        pass


async def follow(store: DynamoDBStore) -> None:
    async for _ in store.feed(follow=False):
        pass


CALLS: dict[str, Callable[[DynamoDBStore], Awaitable[Any]]] = {
    "append": lambda store: store.append(make_commit(fresh_stream())),
    "load": lambda store: store.load(fresh_stream()),
    "read": read,
    "create_table": lambda store: store.create_table(),
    "feed": follow,
    "identity": lambda store: store.identity(),
}


async def expect_refusal(call: Awaitable[Any], advice: str) -> None:
    with pytest.raises(StoreRejected, match=advice) as raised:
        await call
    assert raised.value.code == "CertificateRefused"
    assert "localhost" in str(raised.value)


@each_refusal
@pytest.mark.parametrize("is_proxied", [False, True], ids=["direct", "proxied"])
async def test_every_call_of_a_store_is_refused_at_once(
    dynamodb_endpoint: str, kind: str, is_proxied: bool, monkeypatch: pytest.MonkeyPatch
) -> None:
    certificate, advice = REFUSED[kind]
    async with AsyncExitStack() as stack:
        server = await stack.enter_async_context(encrypted(dynamodb_endpoint, certificate))
        if is_proxied:
            proxy = await stack.enter_async_context(tunnel())
            for name in ("https_proxy", "HTTPS_PROXY"):
                monkeypatch.setenv(name, f"http://127.0.0.1:{proxy.port}")
        store = await stack.enter_async_context(store_on(server.url, "ledger"))
        for number, call in enumerate(CALLS.values(), 1):
            await expect_refusal(call(store), advice)
            assert len(server.connections) == number


@each_refusal
async def test_every_call_of_checkpoints_is_refused_at_once(dynamodb_endpoint: str, kind: str) -> None:
    certificate, advice = REFUSED[kind]
    async with encrypted(dynamodb_endpoint, certificate) as server, checkpoints_on(server.url, "models") as checkpoints:
        await expect_refusal(checkpoints.create_table(), advice)
        await expect_refusal(checkpoints.slots("p"), advice)
        await expect_refusal(checkpoints.positions("p", ["s-1"]), advice)
        await expect_refusal(checkpoints.forget("p"), advice)
        assert len(server.connections) == 4


@each_refusal
async def test_the_stream_is_refused_at_once(
    dynamodb_endpoint: str, table: str, kind: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    certificate, advice = REFUSED[kind]
    async with encrypted(dynamodb_endpoint, certificate) as server:
        monkeypatch.setenv("AWS_ENDPOINT_URL_DYNAMODB_STREAMS", server.url)
        async with store_on(dynamodb_endpoint, table) as store:
            await expect_refusal(follow(store), advice)
            assert len(server.connections) == 1


@each_refusal
async def test_an_export_is_refused_at_once(dynamodb_endpoint: str, kind: str) -> None:
    certificate, advice = REFUSED[kind]
    async with encrypted(dynamodb_endpoint, certificate) as server, AsyncExitStack() as stack:
        client = await open_s3(stack, session=session(), region_name=None, endpoint_url=server.url, plain_http=False)
        await expect_refusal(Bucket("s3://exports/ledger", client).part("manifest", 0), advice)
        assert len(server.connections) == 1


async def expect_use(dynamodb_endpoint: str, table: str, certificate: Any, **options: Any) -> None:
    """Expect that both clients work: ours, and the SDK's."""
    async with (
        encrypted(dynamodb_endpoint, certificate) as server,
        store_on(server.url, table, **options) as store,
    ):
        await store.append(commit := make_commit(fresh_stream()))
        await expect_stored(store, commit.stream, [commit])
        assert await store.create_table() is False


@pytest.mark.parametrize("setting", SETTINGS)
async def test_each_setting_of_the_sdk_names_the_authorities(
    dynamodb_endpoint: str, table: str, bundle: Path, setting: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.delenv("AWS_CA_BUNDLE")
    config = bundle.with_name("config")
    config.write_text(f"[profile private]\nca_bundle = {bundle}\n")
    monkeypatch.setenv("AWS_CONFIG_FILE", str(config))
    monkeypatch.setenv(setting, "private" if setting == "AWS_PROFILE" else str(bundle))
    await expect_use(dynamodb_endpoint, table, AUTHORITY.issue_cert("localhost"), session=new_session())


@pytest.mark.parametrize("setting", ["AWS_CA_BUNDLE", "REQUESTS_CA_BUNDLE"])
async def test_an_empty_setting_does_not_trust_everyone(
    dynamodb_endpoint: str, setting: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("AWS_CA_BUNDLE", "")
    monkeypatch.setenv(setting, "")
    async with (
        encrypted(dynamodb_endpoint, AUTHORITY.issue_cert("localhost")) as server,
        store_on(server.url, "ledger") as store,
    ):
        await expect_refusal(store.load(fresh_stream()), "set AWS_CA_BUNDLE")
        await expect_refusal(store.create_table(), "set AWS_CA_BUNDLE")


@pytest.mark.parametrize("content", [None, "folder", "", "not a certificate"])
async def test_a_file_without_certificates_is_named_when_the_store_is_opened(
    tmp_path: Path, content: str | None, monkeypatch: pytest.MonkeyPatch
) -> None:
    path = tmp_path / "other.pem"
    if content == "folder":
        path.mkdir()
    elif content is not None:
        path.write_text(content)
    monkeypatch.setenv("AWS_CA_BUNDLE", str(path))
    with pytest.raises(StoreRejected, match=str(path)) as raised:
        await store_on("https://localhost:1", "ledger").open()
    assert raised.value.code == "CertificateFile"
    async with store_on("http://localhost:1", "ledger"):  # no certificates are needed
        pass


@pytest.mark.parametrize("version", ["2.25.1", "3.9.2"])
async def test_a_version_of_the_sdk_that_checks_no_name_is_refused(
    version: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(aiobotocore, "__version__", version)
    with pytest.raises(StoreRejected, match=rf"aiobotocore {version} .* install 3\.10 or newer"):
        await store_on("https://localhost:1", "ledger").open()


def careless_authority(folder: Path) -> tuple[Path, ssl.SSLContext]:
    """Return the file of an authority without the extensions that Python asks for since 3.13, and a server of it."""
    key = ec.generate_private_key(ec.SECP256R1())
    names = [x509.Name([x509.NameAttribute(NameOID.COMMON_NAME, text)]) for text in ("inspection", "localhost")]
    files = [folder / "authority.pem", folder / "server.pem"]
    extensions: list[x509.ExtensionType] = [
        x509.BasicConstraints(ca=True, path_length=None),
        x509.SubjectAlternativeName([x509.DNSName("localhost")]),
    ]
    for name, extension, file in zip(names, extensions, files, strict=True):
        built = x509.CertificateBuilder().subject_name(name).issuer_name(names[0]).public_key(key.public_key())
        built = built.serial_number(x509.random_serial_number()).not_valid_before(NOW - timedelta(days=1))
        built = built.not_valid_after(NOW + timedelta(days=1)).add_extension(extension, critical=False)
        file.write_bytes(built.sign(key, hashes.SHA256()).public_bytes(serialization.Encoding.PEM))
    secret = folder / "key.pem"
    secret.write_bytes(
        key.private_bytes(serialization.Encoding.PEM, serialization.PrivateFormat.PKCS8, serialization.NoEncryption())
    )
    context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
    context.load_cert_chain(files[1], secret)
    return files[0], context


def shake_hands(client: ssl.SSLContext, server: ssl.SSLContext) -> None:
    up, down = ssl.MemoryBIO(), ssl.MemoryBIO()
    sides = [
        client.wrap_bio(down, up, server_hostname="localhost"),
        server.wrap_bio(up, down, server_side=True),
    ]
    while sides:
        for side in list(sides):
            try:
                side.do_handshake()
                sides.remove(side)
            except ssl.SSLWantReadError:
                continue


async def test_an_authority_that_inspects_traffic_need_not_be_strict(
    dynamodb_endpoint: str, table: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Python's default refuses it since 3.13, the SDK does not."""
    authority, server = careless_authority(tmp_path)
    strict = ssl.create_default_context(cafile=authority)
    strict.verify_flags |= ssl.VERIFY_X509_STRICT
    with pytest.raises(ssl.SSLCertVerificationError):
        shake_hands(strict, server)
    monkeypatch.setenv("AWS_CA_BUNDLE", str(authority))
    await expect_use(dynamodb_endpoint, table, server)
