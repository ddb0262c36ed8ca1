"""`eventsrc table`: on DynamoDB Local, through a proxy that denies rights, and on moto, which checks policies."""

from __future__ import annotations

import asyncio
import json
import sys
from collections.abc import AsyncIterator, Awaitable, Callable, Iterator
from contextlib import asynccontextmanager
from typing import Any
from unittest.mock import MagicMock
from urllib.request import Request, urlopen

import boto3.session
import pytest
from moto.server import ThreadedMotoServer
from support.proxy import PASS, Answer, Fault, error, proxy_to
from support.tables import CREDENTIALS, fresh_name, new_session, session, store_on
from support.terminal import run_on_terminal

from eventsrc import DynamoDBStore, StoreError
from eventsrc.command_line.main import main
from eventsrc.stores.dynamodb.diagnosis import Finding, diagnose
from eventsrc.stores.dynamodb.rights import SIDES, make_policy
from eventsrc.testing.contract.samples import expect_stored, fresh_stream, make_commit

Run = Callable[..., Awaitable[tuple[int, str]]]
ALL = ["--stream", "--traces"]


@pytest.fixture
def credentials(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("AWS_ACCESS_KEY_ID", CREDENTIALS["aws_access_key_id"])
    monkeypatch.setenv("AWS_SECRET_ACCESS_KEY", CREDENTIALS["aws_secret_access_key"])
    monkeypatch.setenv("AWS_DEFAULT_REGION", CREDENTIALS["region_name"])


@pytest.fixture
def run(credentials: None, capsys: pytest.CaptureFixture[str]) -> Run:
    async def run_line(*arguments: str) -> tuple[int, str]:
        code = await asyncio.to_thread(main, ["table", *arguments])
        captured = capsys.readouterr()
        return code, captured.out + captured.err

    return run_line


def url_of(endpoint: str, table: str) -> str:
    return f"dynamodb://{table}?endpoint={endpoint}"


def without_times(description: dict[str, Any]) -> dict[str, Any]:
    """Return what does not differ between two tables with the same settings."""
    left_out = ("CreationDateTime", "TableArn", "TableId", "LatestStreamArn", "LatestStreamLabel", "TableName")
    kept = {name: value for name, value in description.items() if name not in left_out}
    kept["AttributeDefinitions"] = sorted(kept["AttributeDefinitions"], key=lambda each: str(each["AttributeName"]))
    return kept


async def describe(store: DynamoDBStore) -> dict[str, Any]:
    found = await store.table.connection.sdk.describe_table(TableName=store.table.name)
    description: dict[str, Any] = found["Table"]
    return description


async def test_a_table_is_created_shown_and_completed(dynamodb_endpoint: str, run: Run) -> None:
    table = fresh_name()
    url = url_of(dynamodb_endpoint, table)
    assert await run("show", "--store", url) == (
        1,
        f"eventsrc: there is no table {table}; `eventsrc table create` creates it\n",
    )
    create = ["create", "--store", url]
    assert await run(*create, "--dry-run") == (0, f"{table}: would do: create the table\n")
    assert (await run("show", "--store", url))[0] == 1
    ended = await asyncio.to_thread(run_on_terminal, "table", *create, answer="yes")
    assert (ended.code, ended.out, "not confirmed" in ended.screen) == (1, "", True)
    ended = await asyncio.to_thread(run_on_terminal, "table", *create, answer=table)
    assert (ended.code, ended.out) == (0, f"{table}: done: create the table\n")
    assert await run(*create, "--yes") == (0, f"{table}: done: nothing, the table exists as wanted\n")
    changes = ["turn on the stream", "create the index of traces"]
    for arguments, done in ((["--dry-run"], False), (["--yes"], True)):
        code, text = await run(*create, *ALL, "--json", *arguments)
        expected = {"store": table, "table": table, "changes": changes, "done": done}
        assert (code, json.loads(text)) == (0, expected)
    assert json.loads((await run(*create, *ALL, "--json", "--yes"))[1])["changes"] == []
    async with store_on(dynamodb_endpoint, table) as store:
        await store.append(make_commit(fresh_stream(), correlation_id="request-9"))
        shown = json.loads((await run("show", "--store", f"orders={url}", "--json"))[1])
        assert shown.pop("arn").endswith(f"table/{table}")
        assert shown.pop("bytes") > 0
        assert shown == {
            "store": "orders",
            "table": table,
            "layout": "snapshot-last",
            "tenant": "",
            "status": "ACTIVE",
            "keys": {"PK": "S", "SK": "N"},
            "billing": "PAY_PER_REQUEST",
            "stream": "NEW_IMAGE",
            "indexes": {"traces": "ACTIVE"},
            "point_in_time_recovery": None,  # DynamoDB Local has no backups
            "time_to_live": "",
            "deletion_protection": False,
            "replicas": [],
            "items": 1,
            "identity": "",  # looking does not draw one
        }
        identity = await store.identity()
        text = (await run("show", "--store", url))[1]
        assert {"keys = PK (S), SK (N)", "deletion_protection = off", f"identity = {identity}"} <= set(text.split("\n"))


async def test_a_table_that_does_not_fit_is_refused_before_anything_is_changed(
    dynamodb_endpoint: str, run: Run
) -> None:
    async with store_on(dynamodb_endpoint, fresh_name(), sort_key="version") as other:
        await other.create_table()
        url = url_of(dynamodb_endpoint, other.table.name)
        for arguments in (["--dry-run"], ["--yes"]):
            code, text = await run("create", "--store", url, "--stream", *arguments)
            assert (code, "exists with other keys" in text) == (3, True)
        assert "StreamSpecification" not in await describe(other)


async def test_one_of_several_tables_is_picked(dynamodb_endpoint: str, run: Run) -> None:
    stores = ["--store", "orders=dynamodb://shop-orders", "--store", "stock=dynamodb://shop-stock"]
    code, text = await run("cloudformation", *stores)
    assert (code, text) == (2, "eventsrc: give one of these stores with --table: orders, stock\n")
    for name in ("stock", "shop-stock"):
        assert '"TableName": "shop-stock"' in (await run("cloudformation", *stores, "--table", name))[1]
    code, text = await run("policy", "--store", "sqlite:///missing.db")
    assert code == 2
    code, text = await run("terraform", "--store", "dynamodb://arn%3Aaws%3Adynamodb%3Aeu-west-1%3A1%3Atable%2Fledger")
    assert (code, "give the name of a new one" in text) == (2, True)


async def check(store: DynamoDBStore, *sides: str) -> dict[str, Finding]:
    return {finding.subject: finding async for finding in diagnose(store, sides)}


def levels(found: dict[str, Finding], level: str) -> list[str]:
    return [finding.subject for finding in found.values() if finding.level == level]


CHANGES = [f"right dynamodb:{each}" for each in ("CreateTable", "UpdateTable", "UpdateContinuousBackups")]


async def test_the_doctor_finds_a_table_in_order_and_writes_nothing(dynamodb_endpoint: str, run: Run) -> None:
    async with store_on(dynamodb_endpoint, fresh_name()) as store:
        url = url_of(dynamodb_endpoint, store.table.name)
        code, text = await run("doctor", "--store", url)
        assert (code, text.startswith(f"wrong     table: there is no table {store.table.name}; create it")) == (1, True)
        await store.create_table(stream=True, traces=True, deletion_protection=True)
        found = await check(store)
        assert levels(found, "wrong") == levels(found, "warning") == []
        assert levels(found, "untested") == ["point-in-time recovery", *CHANGES]  # DynamoDB Local has no backups
        assert (await describe(store))["ItemCount"] == 0
        code, text = await run("doctor", "--store", url)
        assert (code, "ok        keys: PK (S), SK (N)\n" in text) == (0, True)
        code, text = await run("doctor", "--store", url, "--json", "--side", "write")
        found = {each["subject"]: Finding(**each) for each in map(json.loads, text.splitlines())}
        assert (code, [each for each in found if each.startswith("right")]) == (
            0,
            [f"right dynamodb:{each}" for each in ("PutItem", "GetItem", "Query")],
        )


async def test_the_doctor_finds_what_is_missing_or_wrong(dynamodb_endpoint: str, run: Run) -> None:
    async with (
        store_on(dynamodb_endpoint, fresh_name()) as store,
        store_on(dynamodb_endpoint, store.table.name, partition_key="stream") as other,
    ):
        await store.create_table()
        found = await check(store)
        assert levels(found, "warning") == ["stream", "index of traces", "deletion protection"]
        assert "eventsrc table create --stream" in found["stream"].advice
        assert found["right dynamodb:GetRecords"].level == "untested"
        sdk, name = store.table.connection.sdk, {"TableName": store.table.name}
        await sdk.update_table(**name, StreamSpecification={"StreamEnabled": True, "StreamViewType": "KEYS_ONLY"})
        await sdk.update_time_to_live(**name, TimeToLiveSpecification={"Enabled": True, "AttributeName": "t"})
        index = {
            "IndexName": "traces",
            "KeySchema": [{"AttributeName": "c", "KeyType": "HASH"}],
            "Projection": {"ProjectionType": "ALL"},
        }
        attribute = {"AttributeName": "c", "AttributeType": "S"}
        types = [*(await describe(store))["AttributeDefinitions"], attribute]
        await sdk.update_table(**name, AttributeDefinitions=types, GlobalSecondaryIndexUpdates=[{"Create": index}])
        found = await check(store)
        assert levels(found, "wrong") == ["stream", "index of traces", "time to live"]
        assert found["time to live"].text == "deletes items by t"
        assert (await run("doctor", "--store", url_of(dynamodb_endpoint, store.table.name)))[0] == 1
        found = await check(other)
        assert (found["keys"].level, found["keys"].text) == ("wrong", "PK (S), SK (N)")
        assert "the store needs stream (S), SK (N)" in found["keys"].advice


async def test_the_doctor_names_rights_that_are_missing(dynamodb_endpoint: str) -> None:
    async with proxy_to(dynamodb_endpoint) as proxy, store_on(proxy.url, fresh_name()) as store:
        await store.create_table(stream=True, traces=True)
        for denied in ("PutItem", "Scan", "DescribeStream", "GetRecords", "DescribeTimeToLive", "DescribeTable"):

            def choose(denied: str = denied) -> Fault:
                return error("AccessDeniedException") if proxy.operations[-1] == denied else PASS

            proxy.choose = choose
            found = await check(store, *SIDES)
            assert levels(found, "wrong") == [f"right dynamodb:{denied}"]
            assert "eventsrc table policy" in found[f"right dynamodb:{denied}"].advice
        proxy.choose = lambda: error("AccessDeniedException")
        found = await check(store, *SIDES)
        of_table = {action for grants in SIDES.values() for grant in grants for action in grant.actions}
        untested = {"CreateTable", "UpdateTable", "UpdateContinuousBackups"}  # they would change the table
        untested |= {"DescribeStream", "GetShardIterator", "GetRecords"}  # nobody says where the stream is
        untested |= {"UpdateItem", "DeleteItem", "BatchGetItem"}  # of checkpoints
        expected = {f"right dynamodb:{each}" for each in of_table - untested} | {"right dynamodb:Query of the index"}
        assert set(levels(found, "wrong")) == expected


@pytest.mark.parametrize(
    ("date", "text"),
    [("Thu, 01 Jan 2026 00:00:00 GMT", "fast"), ("Fri, 01 Jan 2100 00:00:00 GMT", "slow"), ("", "Date header")],
)
async def test_the_doctor_compares_the_clocks(dynamodb_endpoint: str, date: str, text: str) -> None:
    async with proxy_to(dynamodb_endpoint) as proxy, store_on(proxy.url, fresh_name()) as store:
        await store.create_table()
        body = json.dumps({"ConsumedCapacity": {"TableName": store.table.name, "CapacityUnits": 0.5}}).encode()
        proxy.choose = lambda: Answer(200, body, date=date) if proxy.operations[-1] == "GetItem" else PASS
        found = (await check(store))["clock"]
        assert (found.level, text in found.text) == ("warning" if date else "untested", True)


# Templates and policies on moto.


@pytest.fixture(scope="module")
def moto() -> Iterator[str]:
    with pytest.MonkeyPatch.context() as patch:
        # A package for API Gateway, which moto's stacks import although this template has nothing of it.
        for name in ("", ".validation", ".validation.exceptions"):
            patch.setitem(sys.modules, f"openapi_spec_validator{name}", MagicMock())
        server = ThreadedMotoServer(ip_address="127.0.0.1", port=0, verbose=False)
        server.start()
        host, port = server.get_host_and_port()
        yield f"http://{host}:{port}"
        server.stop()


@pytest.mark.parametrize("options", [[], ALL, [*ALL, "--deletion-protection"]], ids=str)
async def test_the_table_of_a_stack_is_that_of_create_table(moto: str, run: Run, options: list[str]) -> None:
    table = fresh_name()
    code, template = await run("cloudformation", "--store", f"dynamodb://{table}", *options)
    assert code == 0
    async with (
        session().client("cloudformation", endpoint_url=moto) as client,
        store_on(moto, table) as store,
        store_on(moto, fresh_name()) as created,
    ):
        await client.create_stack(StackName=table, TemplateBody=template)
        await created.create_table(
            stream="--stream" in options,
            traces="--traces" in options,
            deletion_protection="--deletion-protection" in options,
        )
        assert without_times(await describe(store)) == without_times(await describe(created))
        await store.append(commit := make_commit(fresh_stream(), correlation_id="request-9"))
        await expect_stored(store, commit.stream, [commit])
        assert [each.id async for each in store.correlated("request-9")] == [commit.id]
        if options:
            assert {each.id async for batch in store.feed(follow=False) for each in batch.commits} == {commit.id}


async def test_a_template_has_backups(run: Run) -> None:
    options = ["--store", "dynamodb://ledger", "--point-in-time-recovery", "--json"]
    template = json.loads((await run("cloudformation", *options))[1])
    properties = template["Resources"]["LedgerTable"]["Properties"]
    assert properties["PointInTimeRecoverySpecification"] == {"PointInTimeRecoveryEnabled": True}
    configuration = json.loads((await run("terraform", *options))[1])
    table = configuration["resource"]["aws_dynamodb_table"]["ledger"]
    assert table["point_in_time_recovery"] == [{"enabled": True}]


def read_hcl(text: str) -> dict[str, Any]:
    """Read the blocks and arguments of Terraform's language, as far as the configuration uses it."""
    root: dict[str, Any] = {}
    blocks = [root]
    for line in filter(None, map(str.strip, text.splitlines())):
        if line == "}":
            blocks.pop()
        elif line.endswith("{"):
            blocks[-1].setdefault(line[:-2], []).append(block := dict[str, Any]())
            blocks.append(block)
        else:
            name, _, value = line.partition("=")
            blocks[-1][name.strip()] = json.loads(value.replace("$${", "${"))
    return root


async def test_terraform_makes_the_table_of_create_table(dynamodb_endpoint: str, run: Run) -> None:
    async with store_on(dynamodb_endpoint, fresh_name()) as store:
        await store.create_table(stream=True, traces=True, deletion_protection=True)
        found = await describe(store)
        options = ["--store", f"dynamodb://{store.table.name}", *ALL, "--deletion-protection"]
        code, text = await run("terraform", *options)
        [[title, [table]]] = read_hcl(text).items()
        assert (code, title) == (0, f'resource "aws_dynamodb_table" "{store.table.name}"')
        [index] = found["GlobalSecondaryIndexes"]
        key, sort = (each["AttributeName"] for each in index["KeySchema"])
        assert table == {
            "name": found["TableName"],
            "billing_mode": found["BillingModeSummary"]["BillingMode"],
            "hash_key": found["KeySchema"][0]["AttributeName"],
            "range_key": found["KeySchema"][1]["AttributeName"],
            "stream_enabled": found["StreamSpecification"]["StreamEnabled"],
            "stream_view_type": found["StreamSpecification"]["StreamViewType"],
            "deletion_protection_enabled": found["DeletionProtectionEnabled"],
            "attribute": [
                {"name": each["AttributeName"], "type": each["AttributeType"]} for each in found["AttributeDefinitions"]
            ],
            "global_secondary_index": [
                {
                    "name": index["IndexName"],
                    "hash_key": key,
                    "range_key": sort,
                    "projection_type": index["Projection"]["ProjectionType"],
                }
            ],
            "lifecycle": [{"prevent_destroy": True}],
        }


@asynccontextmanager
async def granted(moto: str, table: str, *sides: str, deadline: float = 60.0) -> AsyncIterator[DynamoDBStore]:
    """Open a store with credentials that have only the policy for these sides. moto knows no resources in policies."""
    user = fresh_name()
    policy = make_policy(table, sides)
    for statement in policy["Statement"]:
        statement["Resource"] = "*"
    async with session().client("iam", endpoint_url=moto) as iam:
        await iam.create_user(UserName=user)
        await iam.put_user_policy(UserName=user, PolicyName="p", PolicyDocument=json.dumps(policy))
        key = (await iam.create_access_key(UserName=user))["AccessKey"]
    owner = new_session(boto3.session.Session)
    owner._session.set_credentials(key["AccessKeyId"], key["SecretAccessKey"])
    await asyncio.to_thread(enforce, moto, enforced=True)
    try:
        async with store_on(moto, table, session=owner, deadline=deadline) as store:
            yield store
    finally:
        await asyncio.to_thread(enforce, moto, enforced=False)


def enforce(moto: str, *, enforced: bool) -> None:
    body = b"0" if enforced else b"inf"
    urlopen(Request(f"{moto}/moto-api/reset-auth", data=body, method="POST", headers={"Content-Type": "text/plain"}))


async def test_the_policies_are_enough(moto: str) -> None:
    """moto's denials have no code that the library knows, so they last until the deadline."""
    table = fresh_name()
    commit = make_commit(fresh_stream(), correlation_id="request-9")
    async with granted(moto, table, "create") as store:
        assert await store.create_table()
        assert not await store.create_table(stream=True, traces=True, point_in_time_recovery=True)
    async with granted(moto, table, "create", deadline=3.0) as store:
        with pytest.raises(StoreError, match="403"):
            await store.append(commit)
    async with granted(moto, table, "write") as store:
        await store.append(commit)
        await expect_stored(store, commit.stream, [commit])
    async with granted(moto, table, "write", deadline=3.0) as store:
        with pytest.raises(StoreError, match="403"):
            await anext(store.scan())
    async with granted(moto, table, "read", "traces") as store:
        assert {each.id async for batch in store.feed(follow=False) for each in batch.commits} == {commit.id}
        assert [each.id async for each in store.correlated("request-9")] == [commit.id]
    async with granted(moto, table, "read", "doctor", "traces") as store:
        found = await check(store, "read", "doctor", "traces")
        assert len([each for each in levels(found, "ok") if each.startswith("right")]) == 10
        assert found["point-in-time recovery"].text == "on"
