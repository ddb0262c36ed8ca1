"""Endpoints: tables and streams are at those that the SDK uses, in all partitions, variants and configurations."""

from __future__ import annotations

from itertools import product
from pathlib import Path
from typing import Any

import pytest
from aiobotocore.config import AioConfig
from aiobotocore.session import get_session
from botocore.exceptions import EndpointVariantError
from support.proxy import proxy_to
from support.tables import fresh_name, session

from eventsrc import DynamoDBStore, StoreRejected
from eventsrc.stores.dynamodb.wire.connection import Connection
from eventsrc.stores.dynamodb.wire.endpoints import find_aws_variant, find_endpoint, is_confidential
from eventsrc.stores.dynamodb.wire.sdk import SDKClient

CORE: Any = get_session()
CORE.set_credentials("local", "local")
PARTITIONS = CORE.get_component("data_loader").load_data("partitions")["partitions"]
REGIONS = [next(region for region in partition["regions"] if "global" not in region) for partition in PARTITIONS]
VARIANTS = list(product((False, True), repeat=2))
FLAGS = ("AWS_USE_FIPS_ENDPOINT", "AWS_USE_DUALSTACK_ENDPOINT")

every_place = pytest.mark.parametrize("region", REGIONS)
every_variant = pytest.mark.parametrize("variant", VARIANTS, ids=["plain", "dualstack", "fips", "both"])


async def place(service: str, region: str, variant: tuple[bool, bool] = (False, False)) -> str | None:
    """Where the SDK alone sends a request, as the bytes to sign show; None if it knows no such endpoint."""
    sent: list[str] = []

    def stop(request: Any, **_: object) -> None:
        sent.append(request.url)
        raise KeyError("nothing is to be sent")

    config = AioConfig(
        use_fips_endpoint=variant[0], use_dualstack_endpoint=variant[1], account_id_endpoint_mode="disabled"
    )
    try:
        async with CORE.create_client(service, region_name=region, config=config) as client:
            client.meta.events.register("before-sign", stop)
            with pytest.raises(KeyError):
                await (client.list_tables() if service == "dynamodb" else client.list_streams())
    except EndpointVariantError:
        return None
    return sent[0].rstrip("/")


def url_of(client: Any) -> str:
    """Where the library's own client sends requests."""
    pool = client._pool
    return f"{'https' if pool._tls else 'http'}://{pool._host}" + ("" if pool._port == 443 else f":{pool._port}")


async def places(**options: Any) -> tuple[str, str]:
    """Where the library sends requests for the table, and for its stream."""
    connection = Connection(**{"session": CORE, **options})
    await connection.open()
    try:
        streams = await connection.open_streams()
        assert isinstance(streams, SDKClient)
        assert await find_endpoint(connection.sdk) == url_of(connection.client)
        return url_of(connection.client), await find_endpoint(streams._sdk)
    finally:
        await connection.aclose()


def configure(monkeypatch: pytest.MonkeyPatch, variant: tuple[bool, bool]) -> None:
    for name, value in zip(FLAGS, variant, strict=True):
        monkeypatch.setenv(name, str(value).lower())


@every_place
@every_variant
async def test_both_are_where_the_sdk_sends_them(
    region: str, variant: tuple[bool, bool], monkeypatch: pytest.MonkeyPatch
) -> None:
    expected = (await place("dynamodb", region, variant), await place("dynamodbstreams", region, variant))
    configure(monkeypatch, variant)
    if None in expected:
        with pytest.raises(StoreRejected, match="dualstack"):
            await places(region_name=region)
    else:
        assert await places(region_name=region) == expected


@every_place
@every_variant
async def test_the_stream_of_an_endpoint_that_is_named_is_of_the_same_variant(
    region: str, variant: tuple[bool, bool]
) -> None:
    table, streams = await place("dynamodb", region, variant), await place("dynamodbstreams", region, variant)
    if variant == (False, True) and table is not None:
        with pytest.raises(StoreRejected, match="enabling the configuration"):  # so the SDK
            await places(region_name=region, endpoint_url=table)
    elif table is not None:
        assert await places(region_name=region, endpoint_url=table) == (table, streams)


@pytest.mark.parametrize(
    ("host", "variant"),
    [
        ("vpce-0a1b-2c3d.dynamodb.eu-west-1.vpce.amazonaws.com", (False, False)),
        ("vpce-0a1b-2c3d-eu-west-1a.dynamodb.eu-west-1.vpce.amazonaws.com", (False, False)),
        ("vpce-0a1b-2c3d.dynamodb-fips.us-east-1.vpce.amazonaws.com", (True, False)),
        ("vpce-0a1b-2c3d.dynamodb.cn-north-1.vpce.amazonaws.com.cn", (False, False)),
        ("123456789012.ddb.eu-west-1.amazonaws.com", (False, False)),
        ("dynamodb.eusc-de-east-1.amazonaws.eu", (False, False)),
        ("ec2-192-0-2-1.eu-west-1.compute.amazonaws.com", None),  # these may be emulators
        ("emulator-1.eu-west-1.elb.amazonaws.com", None),
        ("dynamodb.eu-west-1.amazonaws.com.example.org", None),
        ("s3.eu-west-1.amazonaws.com", None),
        ("localhost", None),
        ("127.0.0.1", None),
        ("localhost.localstack.cloud", None),
    ],
)
def test_the_rules_of_the_sdk_say_what_is_of_aws(host: str, variant: tuple[bool, bool] | None) -> None:
    assert find_aws_variant(CORE, f"https://{host}") == variant
    assert find_aws_variant(CORE, f"https://{host}:8443") == variant


@pytest.mark.parametrize(
    ("endpoint", "expected"),
    [
        ("https://192.0.2.1", True),
        ("http://localhost:8000", True),
        ("http://127.0.0.1:8000", True),
        ("http://127.8.9.1", True),
        ("http://[::1]:8000", True),
        ("http://127.evil.example", False),
        ("http://127.0.0.1.evil.example:8000", False),
        ("http://localhost.evil.example", False),
        ("http://evil.example/127.0.0.1", False),
        ("http://192.0.2.1", False),
        ("http://0.0.0.0:8000", False),
    ],
)
def test_only_this_machine_is_confidential_without_encryption(endpoint: str, expected: bool) -> None:
    assert is_confidential(endpoint) is expected


TABLES, STREAMS, OTHER = "http://127.0.0.1:1", "http://127.0.0.1:2", "http://127.0.0.1:3"
AWS = "https://streams.dynamodb.eu-west-1.amazonaws.com"
PROFILE = """
[profile one]
endpoint_url = {OTHER}
[profile both]
services = local
[services local]
dynamodb =
  endpoint_url = {TABLES}
dynamodb_streams =
  endpoint_url = {STREAMS}
"""


@pytest.mark.parametrize(
    ("environment", "endpoint_url", "expected"),
    [
        ({}, TABLES, (TABLES, TABLES)),
        ({"AWS_ENDPOINT_URL_DYNAMODB": TABLES}, None, (TABLES, TABLES)),
        ({"AWS_ENDPOINT_URL": OTHER}, None, (OTHER, OTHER)),
        ({"AWS_ENDPOINT_URL": OTHER}, TABLES, (TABLES, TABLES)),
        ({"AWS_ENDPOINT_URL_DYNAMODB_STREAMS": STREAMS}, TABLES, (TABLES, STREAMS)),
        ({"AWS_ENDPOINT_URL_DYNAMODB_STREAMS": ""}, TABLES, (TABLES, TABLES)),
        ({"AWS_ENDPOINT_URL_DYNAMODB_STREAMS": AWS}, TABLES, (TABLES, AWS)),
        (
            {"AWS_ENDPOINT_URL_DYNAMODB_STREAMS": STREAMS, "AWS_IGNORE_CONFIGURED_ENDPOINT_URLS": "true"},
            TABLES,
            (TABLES, TABLES),
        ),
        ({"AWS_PROFILE": "one"}, None, (OTHER, OTHER)),
        ({"AWS_PROFILE": "both"}, None, (TABLES, STREAMS)),
        ({"AWS_PROFILE": "both"}, OTHER, (OTHER, STREAMS)),
        ({"AWS_PROFILE": "both", "AWS_IGNORE_CONFIGURED_ENDPOINT_URLS": "true"}, OTHER, (OTHER, OTHER)),
        ({"AWS_ENDPOINT_URL": "https://dynamodb.eu-west-1.amazonaws.com"}, TABLES, (TABLES, TABLES)),
    ],
    ids=str,
)
async def test_configured_endpoints(
    environment: dict[str, str],
    endpoint_url: str | None,
    expected: tuple[str, str],
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    (tmp_path / "config").write_text(PROFILE.format(TABLES=TABLES, STREAMS=STREAMS, OTHER=OTHER))
    monkeypatch.setenv("AWS_CONFIG_FILE", str(tmp_path / "config"))
    for name, value in environment.items():
        monkeypatch.setenv(name, value)
    own = get_session()
    own.set_credentials("local", "local")
    assert await places(session=own, region_name="eu-west-1", endpoint_url=endpoint_url) == expected


async def test_variants_do_not_concern_an_emulator(monkeypatch: pytest.MonkeyPatch) -> None:
    configure(monkeypatch, (True, True))
    assert await places(region_name="eu-west-1", endpoint_url=TABLES) == (TABLES, TABLES)


async def test_the_sdk_resolves_the_endpoint_without_a_request(dynamodb_endpoint: str) -> None:
    async with (
        proxy_to(dynamodb_endpoint) as proxy,
        session().client("dynamodb", endpoint_url=proxy.url) as client,
    ):
        assert await find_endpoint(client) == proxy.url
        assert not proxy.operations
        await client.list_tables()
        assert len(proxy.operations) == 1


async def test_the_proxy_is_chosen_as_by_the_sdk(dynamodb_endpoint: str, monkeypatch: pytest.MonkeyPatch) -> None:
    """NO_PROXY may name a port, and the proxies may be in the config of the session."""
    port = dynamodb_endpoint.rpartition(":")[2]
    for name in ("http_proxy", "HTTP_PROXY"):
        monkeypatch.setenv(name, OTHER)

    async def is_direct(url: str, chosen: Any = None) -> bool:
        store = DynamoDBStore(fresh_name(), session=chosen or CORE, endpoint_url=url, region_name="us-east-1")
        async with store:
            return not isinstance(store.table.connection.client, SDKClient)

    for name in ("no_proxy", "NO_PROXY"):
        monkeypatch.setenv(name, f"127.0.0.1:{port}")
    assert await is_direct(dynamodb_endpoint)
    assert not await is_direct(TABLES)
    for name in ("http_proxy", "HTTP_PROXY"):
        monkeypatch.delenv(name)
    own = get_session()
    own.set_credentials("local", "local")
    own.set_default_client_config(AioConfig(proxies={"http": OTHER}))
    assert not await is_direct(dynamodb_endpoint, own)
