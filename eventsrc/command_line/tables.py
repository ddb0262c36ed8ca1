"""Verbs about the table of a store on DynamoDB: create it, look at it, check it, and print its policy and templates."""

from __future__ import annotations

import argparse
import json
from functools import partial
from typing import TYPE_CHECKING, Any

from ..inspection import App, UsageError
from ..stores.dynamodb.description import TableSettings
from ..stores.dynamodb.rights import SIDES, make_policy
from ..stores.dynamodb.templates import draw_hcl, make_cloudformation, make_terraform
from ..tracing.wording import plain
from .output import Output
from .verbs import Needs, Verbs

if TYPE_CHECKING:  # imported when a verb is called, because they need the client
    from ..stores.dynamodb.examination import Examined
    from ..stores.dynamodb.store import DynamoDBStore

_DONE, _WRONG = 0, 1
_SIDES = tuple(SIDES)
_SIDES_OF_STORES = tuple(side for side in SIDES if side != "checkpoints")
_OPTIONS = {
    "--stream": "turn on DynamoDB Streams with new images, which processors and feeds read",
    "--traces": "make the index of traces, which takes the write units of commits with a correlation id twice",
    "--point-in-time-recovery": "turn on backups",
    "--deletion-protection": "refuse to delete the table",
}


def add_verbs(verbs: Verbs) -> None:
    """Add the verbs of this module to the command line."""
    tables = verbs.group("table", "create, check and describe the table of a store on DynamoDB")
    found = tables.add_change(
        "create",
        create_table,
        "create the table, or turn on what an existing one lacks",
        "table create --store 'dynamodb://ledger?region=eu-west-1' --stream",
        target=lambda app, given: _find_store(app, given)[1].table.name,
    )
    _add_settings(found)

    found = tables.add(
        "show",
        show_table,
        "print the settings of the table",
        "table show --store 'dynamodb://ledger?region=eu-west-1'",
    )
    _add_table(found)

    found = tables.add(
        "doctor",
        check_table,
        "check the table, the clock and the rights, and say what to do",
        "table doctor --store 'dynamodb://ledger?region=eu-west-1'",
    )
    _add_table(found)
    _add_sides(found, _SIDES_OF_STORES, "what the credentials should have rights for")

    found = tables.add(
        "policy",
        show_policy,
        "print the IAM policy of a program that uses the table; it needs no connection",
        "table policy --store 'dynamodb://ledger?region=eu-west-1' --side write --account 123456789012",
        needs=Needs.STORES,
    )
    _add_table(found)
    _add_sides(found, _SIDES, "what the program does with the table")
    found.add_argument("--account", default="*", metavar="NUMBER", help="the account of the table (default: any)")

    for name, about in (("cloudformation", "a CloudFormation template"), ("terraform", "a Terraform configuration")):
        found = tables.add(
            name,
            partial(show_template, kind=name),
            f"print {about} of the table that `create` makes; it needs no connection",
            f"table {name} --store dynamodb://ledger --stream --point-in-time-recovery",
            needs=Needs.STORES,
        )
        _add_settings(found)


def _add_table(parser: argparse.ArgumentParser) -> None:
    parser.add_argument("--table", metavar="NAME", help="the store or its table, if there are several")


def _add_settings(parser: argparse.ArgumentParser) -> None:
    _add_table(parser)
    for option, about in _OPTIONS.items():
        parser.add_argument(option, action="store_true", help=about)


def _add_sides(parser: argparse.ArgumentParser, sides: tuple[str, ...], about: str) -> None:
    about = f"{about}; may be repeated (default: write and read)"
    parser.add_argument("--side", action="append", default=[], choices=sides, help=about)


async def create_table(app: App, output: Output, given: argparse.Namespace) -> int:
    """Create the table of a store, or turn on what an existing one lacks, and print what was done."""
    from ..stores.dynamodb.examination import examine, find_changes

    name, store = _find_store(app, given)
    settings = _find_settings(store, given)
    found = await examine(store)
    changes = list(find_changes(settings, found))
    if not given.dry_run:
        await store.create_table(**_read_options(given))
    done = "; ".join(changes) or "nothing, the table exists as wanted"
    if found is not None and settings.deletion_protection and not found.description.DeletionProtectionEnabled:
        done += " (deletion protection stays off: it is turned on only with a new table)"
    result = {"store": name, "table": settings.name, "changes": changes, "done": not given.dry_run}
    output.show(f"{plain(settings.name)}: {'would do' if given.dry_run else 'done'}: {done}", result)
    return _DONE


async def show_table(app: App, output: Output, given: argparse.Namespace) -> int:
    """Print the settings of the table of a store. Return 1 if there is no table."""
    from ..stores.dynamodb.examination import examine

    name, store = _find_store(app, given)
    found = await examine(store)
    if found is None:
        output.screen.write(f"eventsrc: there is no table {store.table.name}; `eventsrc table create` creates it\n")
        return _WRONG
    base = {"store": name, "table": store.table.name, "layout": store.layout, "tenant": store.items.tenant or ""}
    shown: dict[str, Any] = base | _read_description(found)
    lines = [f"{key} = {_show_value(value)}" for key, value in shown.items() if value is not None]
    output.show("\n".join(lines), shown)
    return _DONE


def _read_description(found: Examined) -> dict[str, Any]:
    description = found.description
    stream = description.StreamSpecification
    return {
        "arn": description.TableArn,
        "status": description.TableStatus,
        "keys": description.keys,
        "billing": description.BillingModeSummary.BillingMode,
        "stream": stream.StreamViewType if stream.StreamEnabled else "",
        "indexes": {index.IndexName: index.IndexStatus for index in description.GlobalSecondaryIndexes},
        "point_in_time_recovery": found.recovers,
        "time_to_live": found.expiring,
        "deletion_protection": description.DeletionProtectionEnabled,
        "replicas": [each.get("RegionName", "") for each in description.Replicas],
        "items": description.ItemCount,
        "bytes": description.TableSizeBytes,
        "identity": found.identity or "",
    }


def _show_value(value: Any) -> str:
    if isinstance(value, dict):
        value = ", ".join(f"{name} ({kind})" for name, kind in value.items())
    elif isinstance(value, list):
        value = ", ".join(value)
    elif isinstance(value, bool):
        value = "on" if value else "off"
    elif isinstance(value, int):
        value = f"{value:,}"
    return plain(value) or "none"


async def check_table(app: App, output: Output, given: argparse.Namespace) -> int:
    """Print what is right and wrong with the table of a store. Return 1 if something is wrong."""
    from ..stores.dynamodb.diagnosis import diagnose

    _, store = _find_store(app, given)
    code = _DONE
    async for found in diagnose(store, given.side):
        text = f"{found.level:8}  {found.subject}: {plain(found.text)}"
        output.show(f"{text}; {plain(found.advice)}" if found.advice else text, found._asdict())
        code = _WRONG if found.level == "wrong" else code
    return code


async def show_policy(app: App, output: Output, given: argparse.Namespace) -> int:
    """Print the IAM policy for the table of a store."""
    from ..stores.dynamodb.wire.endpoints import find_partition

    _, store = _find_store(app, given)
    region = store.table.connection.region_name
    place = {"region": region, "partition": find_partition(region)} if region else {}
    sides = given.side or ("write", "read")
    policy = make_policy(store.table.name, sides, account=given.account, **place)
    output.show(json.dumps(policy, indent=2), policy)
    return _DONE


async def show_template(app: App, output: Output, given: argparse.Namespace, *, kind: str) -> int:
    """Print a template of the table of a store, for CloudFormation or Terraform."""
    settings = _find_settings(_find_store(app, given)[1], given)
    if settings.name.startswith("arn:"):
        raise UsageError("the table is given by its ARN, so it exists; give the name of a new one")
    if kind == "terraform":
        configuration = make_terraform(settings)
        output.show(draw_hcl(configuration), configuration)
    else:
        output.show(json.dumps(template := make_cloudformation(settings), indent=2), template)
    return _DONE


def _find_store(app: App, given: argparse.Namespace) -> tuple[str, DynamoDBStore]:
    """Return the name and the store whose table is meant. Raises UsageError."""
    from ..stores.dynamodb.store import DynamoDBStore

    found = {name: store for name, store in app.stores.items() if isinstance(store, DynamoDBStore)}
    if not found:
        raise UsageError("no store on DynamoDB is given; write --store dynamodb://ledger")
    if given.table is not None:
        found = {name: each for name, each in found.items() if given.table in (name, each.table.name)}
    if len(found) != 1:
        raise UsageError(f"give one of these stores with --table: {', '.join(app.stores)}")
    return next(iter(found.items()))


def _find_settings(store: DynamoDBStore, given: argparse.Namespace) -> TableSettings:
    options: dict[str, Any] = _read_options(given)
    options["traces"] = store.items.trace_keys if options["traces"] else None
    return TableSettings(store.table.name, store.table.keys, **options)


def _read_options(given: argparse.Namespace) -> dict[str, bool]:
    return {name: getattr(given, name) for name in (option[2:].replace("-", "_") for option in _OPTIONS)}
