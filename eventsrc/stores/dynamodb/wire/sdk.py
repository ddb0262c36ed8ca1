"""The SDK's client under the seam, and how one is opened."""

from __future__ import annotations

from collections.abc import Mapping
from contextlib import AsyncExitStack
from ipaddress import ip_address
from typing import Any, TypeVar
from urllib.parse import urlsplit
from zlib import crc32

import msgspec

from ....errors import StoreRejected
from .client import Reply, ServiceError, TransportError

T = TypeVar("T")


class SDKReply:
    """What the SDK has parsed."""

    def __init__(self, answer: Mapping[str, Any]) -> None:
        self._answer = answer

    def read(self, kind: type[T]) -> T:
        return msgspec.convert(self._answer, kind)


class SDKClient:
    """A client of the SDK (aioboto3, aiobotocore) under the seam. It checks the checksum of each answer."""

    def __init__(self, sdk: Any) -> None:
        from botocore import exceptions, xform_name

        self._sdk = sdk
        self._method_name = xform_name
        sdk.meta.events.register("response-received", _check_answer, unique_id=f"{__name__}.check_answer")
        self._client_error = exceptions.ClientError
        self._never_sent = (
            exceptions.NoCredentialsError,
            exceptions.PartialCredentialsError,
            exceptions.CredentialRetrievalError,
            exceptions.ParamValidationError,
        )

    async def call(self, operation: str, request: Mapping[str, Any]) -> Reply:
        try:
            return SDKReply(await getattr(self._sdk, self._method_name(operation))(**request))
        except self._client_error as error:
            response = error.response
            failure: Exception = ServiceError(
                str(response.get("Error", {}).get("Code", "")),
                int(response.get("ResponseMetadata", {}).get("HTTPStatusCode", 0)),
                SDKReply(response),
            )
        except self._never_sent as error:
            failure = ServiceError(type(error).__name__, 0)
        except Exception as error:  # noqa: BLE001  # the SDK lets its HTTP library's and parser's errors through
            failure = TransportError(type(error).__name__)
        raise failure  # outside the handlers: the SDK's error may hold another writer's payload


def _check_answer(response_dict: dict[str, Any] | None, **_: object) -> None:
    """Raise TransportError for a damaged answer: without retries the SDK lets one through, as on its last attempt."""
    if response_dict is None:
        return
    expected = response_dict["headers"].get("x-amz-crc32")
    if expected is not None and int(expected) != crc32(response_dict["body"]):
        raise TransportError("an answer with a wrong checksum")


async def open_sdk(
    stack: AsyncExitStack,
    *,
    session: Any,
    region_name: str | None,
    endpoint_url: str | None,
    max_connections: int,
    timeout: float,
    plain_http: bool,
    service: str = "dynamodb",
) -> tuple[Any, Any, str | None]:
    """Open an SDK client that sends each request once; what the environment could decide is set here.

    Returns the client, which lives until `stack` closes, the credentials it uses, and the file of certificates that it
    trusts instead of the usual ones. Raises StoreRejected, as `open_client`.
    """
    import aioboto3

    session = session or aioboto3.Session()
    client = await open_client(
        stack,
        service,
        session=session,
        region_name=region_name,
        endpoint_url=endpoint_url,
        plain_http=plain_http,
        retries={"mode": "standard", "total_max_attempts": 1},  # the SDK resends silently and hides our own success
        connect_timeout=min(timeout, 3.0),
        read_timeout=timeout,
        max_pool_connections=max_connections,
        tcp_keepalive=True,
        parameter_validation=False,
        account_id_endpoint_mode="disabled",
    )
    ca_bundle = session._session.get_config_variable("ca_bundle")  # noqa: SLF001  # no other way
    return client, await session.get_credentials(), ca_bundle


async def open_client(
    stack: AsyncExitStack,
    service: str,
    *,
    session: Any,
    region_name: str | None,
    endpoint_url: str | None,
    plain_http: bool,
    **config: Any,
) -> Any:
    """Open a client of the SDK that lives until `stack` closes. `config` is that of the SDK.

    Raises StoreRejected where the SDK can make no client, for an endpoint that is more than a scheme, a host and a
    port, and, unless `plain_http` allows it, for one that receives events in the clear over the network.
    """
    import aioboto3
    from aiobotocore.config import AioConfig
    from botocore.exceptions import BotoCoreError

    try:
        client: Any = (session or aioboto3.Session()).client(
            service, region_name=region_name, endpoint_url=endpoint_url, config=AioConfig(**config)
        )
        opened = await stack.enter_async_context(client)
    except (BotoCoreError, ValueError) as error:  # no region, a profile that is not there, no URL
        raise StoreRejected(type(error).__name__, f"{error}; see session, region_name and endpoint_url") from None
    endpoint = opened.meta.endpoint_url  # also where the environment or a profile chose it
    if not _is_plain(endpoint):  # it may hold a password, so it is not quoted
        raise StoreRejected("ENDPOINT", "an endpoint is a scheme, a host and a port, as in http://localhost:8000")
    if not plain_http and not _is_private(endpoint):
        raise StoreRejected("PLAIN_HTTP", f"{endpoint} sends events in the clear; use https, or say plain_http=True")
    return opened


def _is_plain(endpoint: str) -> bool:
    """Whether it is a scheme, a host and a port, and nothing else."""
    try:
        parts = urlsplit(endpoint)
        return parts.port != 0 and parts.path in ("", "/") and not parts.query and parts.username is None
    except ValueError:
        return False


def is_of_aws(endpoint: str) -> bool:
    """Whether it is the service itself, and not an emulator or the like."""
    return (urlsplit(endpoint).hostname or "").endswith((".amazonaws.com", ".amazonaws.com.cn", ".api.aws"))


def _is_private(endpoint: str) -> bool:
    """Whether what is sent there is encrypted, or stays on this machine."""
    parts = urlsplit(endpoint)
    if parts.scheme == "https" or parts.hostname == "localhost":
        return True
    try:
        return ip_address(parts.hostname or "").is_loopback
    except ValueError:
        return False
