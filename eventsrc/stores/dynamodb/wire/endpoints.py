"""Endpoints: where the SDK sends requests, which endpoints are those of AWS, and which may be used."""

from __future__ import annotations

import os
import re
from ipaddress import ip_address
from itertools import product
from typing import Any
from urllib.parse import urlsplit

_PRIVATE = re.compile(r"^vpce-[^.]+\.([^.]+\.[^.]+)\.vpce\.")  # of an interface endpoint in a VPC


async def find_endpoint(sdk: Any) -> str:
    """Return the endpoint to which a client of DynamoDB or of its streams sends requests, without sending one.

    The SDK decides it for each request, by rules for partitions and variants; `meta.endpoint_url` is from older data.

    Raises BotoCoreError as a request would, for example if the SDK refuses to combine settings.
    """
    found = ""

    def stop(params: dict[str, Any], **_: object) -> tuple[Any, dict[str, Any]]:
        nonlocal found
        found = params["url"]
        return _NoResponse, {}

    sdk.meta.events.register_first("before-call", stop)
    try:
        await (sdk.list_tables() if hasattr(sdk, "list_tables") else sdk.list_streams())
    finally:
        sdk.meta.events.unregister("before-call", stop)
    return found.rstrip("/")


class _NoResponse:
    """In place of a response."""

    status_code = 200


def find_streams_settings(session: Any, sdk: Any, endpoint: str) -> dict[str, Any]:
    """Return the settings of a client for the streams of the tables at `endpoint`, the endpoint of the client `sdk`.

    - `session` is one of aiobotocore. If it has an endpoint for streams, that one is used.
    - The tables of AWS have their streams at an endpoint that the SDK finds, of the same variant (FIPS, dual-stack).
    - Any other server has both at the same endpoint, as DynamoDB Local.
    """
    if _has_streams_endpoint(session, sdk):
        return {"endpoint_url": None}
    variant = find_aws_variant(session, endpoint)
    if variant is None:
        return {"endpoint_url": endpoint}
    fips, dual_stack = variant
    # None leaves the choice to the environment.
    return {"endpoint_url": None, "use_fips_endpoint": fips or None, "use_dualstack_endpoint": dual_stack or None}


def _has_streams_endpoint(session: Any, sdk: Any) -> bool:
    """Whether the environment or the profile names an endpoint for streams alone."""
    ignored = sdk.meta.config.ignore_configured_endpoint_urls
    if ignored if ignored is not None else session.get_config_variable("ignore_configured_endpoint_urls"):
        return False
    if os.environ.get("AWS_ENDPOINT_URL_DYNAMODB_STREAMS"):
        return True
    services = session.full_config.get("services", {}).get(session.get_scoped_config().get("services"), {})
    return bool(services.get("dynamodb_streams", {}).get("endpoint_url"))


def find_aws_variant(session: Any, endpoint: str) -> tuple[bool, bool] | None:
    """Return whether this endpoint of DynamoDB is one for FIPS, and one of dual-stack; None if it is not one of AWS.

    The rules of the SDK decide: an emulator may run on a host that has a name of AWS.
    """
    from botocore.endpoint_provider import EndpointProvider  # here, because it is slow to import
    from botocore.exceptions import BotoCoreError

    loader = session.get_component("data_loader")
    rules = EndpointProvider(
        loader.load_service_model("dynamodb", "endpoint-rule-set-1"), loader.load_data("partitions")
    )
    host = _PRIVATE.sub(r"\1.", urlsplit(endpoint).hostname or "")
    account, *labels = host.split(".")
    variants = list(product((False, True), repeat=2))
    for region, (fips, dual_stack) in product(labels, variants):
        settings = {"Region": region, "UseFIPS": fips, "UseDualStack": dual_stack}
        for ids in ({}, {"AccountId": account, "AccountIdEndpointMode": "preferred"}):
            try:
                found = rules.resolve_endpoint(**settings, **ids).url
            except BotoCoreError:
                continue
            if urlsplit(found).hostname == host:
                return fips, dual_stack
    return None


def find_partition(region: str) -> str:
    """Return the partition of a region, as `aws-cn`, by the data of the SDK; `aws` if it does not know the region."""
    from botocore.exceptions import UnknownRegionError  # here, because it is slow to import
    from botocore.session import get_session

    try:
        return str(get_session().get_partition_for_region(region))
    except UnknownRegionError:
        return "aws"


def is_origin(endpoint: str) -> bool:
    """Whether the endpoint is only a scheme, a host and a port."""
    try:
        parts = urlsplit(endpoint)
        return parts.port != 0 and parts.path in ("", "/") and not parts.query and parts.username is None
    except ValueError:
        return False


def is_confidential(endpoint: str) -> bool:
    """Whether requests to the endpoint are encrypted, or stay on this machine."""
    parts = urlsplit(endpoint)
    if parts.scheme == "https" or parts.hostname == "localhost":
        return True
    try:
        return ip_address(parts.hostname or "").is_loopback
    except ValueError:
        return False


def is_proxied(endpoint: str, proxies: dict[str, str] | None) -> bool:
    """Whether the SDK sends requests for this endpoint through a proxy: one of `proxies`, or of the environment."""
    from botocore.utils import get_environ_proxies  # here, because it is slow to import

    return bool((get_environ_proxies(endpoint) if proxies is None else proxies).get(urlsplit(endpoint).scheme))
