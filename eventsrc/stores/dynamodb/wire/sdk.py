"""Opening clients of the SDK, and their adapter to the interface `Client`."""

from __future__ import annotations

import asyncio
from collections.abc import Mapping
from contextlib import AsyncExitStack
from contextvars import ContextVar
from importlib.util import find_spec
from ipaddress import ip_address
from socket import gaierror
from typing import Any, TypeVar
from urllib.parse import urlsplit
from zlib import crc32

import msgspec

from ....errors import StoreRejected
from ....log import log
from .client import NotSent, Reply, ServiceError, TransportError, divide

T = TypeVar("T")

_PACKAGES = ("aioboto3", "httptools")  # what the extra installs


def check_installed() -> None:
    """Raise ModuleNotFoundError, which names the extra to install, if a package that DynamoDB needs is missing."""
    if missing := [name for name in _PACKAGES if find_spec(name) is None]:
        advice = f'DynamoDB needs {" and ".join(missing)}; run: pip install "eventsrc[dynamodb]"'
        raise ModuleNotFoundError(advice, name=missing[0])


def new_session(**settings: str) -> Any:
    """Return a session of the SDK. Raises ModuleNotFoundError as `check_installed`."""
    check_installed()
    import aioboto3  # here, because it is slow to import

    return aioboto3.Session(**settings)


class SDKReply:
    """A response that the SDK has parsed."""

    def __init__(self, response: Mapping[str, Any]) -> None:
        self._response = response

    @property
    def date(self) -> str:
        return str(self._response.get("ResponseMetadata", {}).get("HTTPHeaders", {}).get("date", ""))

    def read(self, kind: type[T]) -> T:
        return msgspec.convert(self._response, kind)


class SDKClient:
    """A client of the SDK (aioboto3, aiobotocore) as a `Client`. It verifies the checksum of each response."""

    def __init__(self, sdk: Any) -> None:
        from aiohttp import ClientConnectorError
        from botocore import exceptions, xform_name

        self._sdk = sdk
        self._method_name = xform_name
        sdk.meta.events.register("provide-client-params", _note_call, unique_id=f"{__name__}.note_call")
        sdk.meta.events.register("before-send", _count_attempt, unique_id=f"{__name__}.count_attempt")
        sdk.meta.events.register("response-received", _check_response, unique_id=f"{__name__}.check_response")
        self._client_error = exceptions.ClientError
        self._not_prepared = (
            exceptions.NoCredentialsError,
            exceptions.PartialCredentialsError,
            exceptions.CredentialRetrievalError,
            exceptions.ParamValidationError,
        )
        self._not_connected = (exceptions.ConnectTimeoutError, exceptions.ProxyConnectionError, exceptions.SSLError)
        self._connector_errors = (ClientConnectorError, gaierror)

    async def call(self, operation: str, request: Mapping[str, Any]) -> Reply:
        attempts = _Attempts()
        token = _attempts.set(attempts)
        try:
            return SDKReply(await getattr(self._sdk, self._method_name(operation))(**request))
        except self._client_error as error:
            response = error.response
            failure: Exception = ServiceError(
                str(response.get("Error", {}).get("Code", "")),
                int(response.get("ResponseMetadata", {}).get("HTTPStatusCode", 0)),
                SDKReply(response),
                repeated=attempts.count > 1,
            )
        except asyncio.CancelledError as cancelled:
            if attempts.count or not attempts.are_counted:
                raise
            raise cancelled from NotSent("no credentials")
        except Exception as error:  # noqa: BLE001  # the SDK also raises errors of its HTTP library and parser
            name = type(error).__name__
            if not attempts.count and isinstance(error, self._not_prepared):
                failure = ServiceError(name, 0)
            elif attempts.count <= 1 and self._is_not_connected(error):
                failure = NotSent(name)
            else:
                failure = TransportError(name)
        finally:
            _attempts.reset(token)
        raise failure  # outside the handlers: the SDK's error may hold another writer's payload

    def _is_not_connected(self, error: Exception) -> bool:
        """Whether the SDK could not make a connection, to the service or to a proxy."""
        if isinstance(error, self._not_connected):
            return True
        cause = getattr(error, "kwargs", {}).get("error")  # the SDK raises one error for this and for a lost connection
        return isinstance(cause, self._connector_errors)


class _Attempts:
    """The number of times that the SDK has begun to send the request of a call."""

    count = 0
    are_counted = False  # the client may be an imitation, which does not emit the SDK's events


_attempts: ContextVar[_Attempts | None] = ContextVar("attempts", default=None)  # of the call that is running


def _note_call(**_: object) -> None:
    if (attempts := _attempts.get()) is not None:
        attempts.are_counted = True


def _count_attempt(**_: object) -> None:
    if (attempts := _attempts.get()) is not None:
        attempts.count += 1


def warn_of_retries(sdk: Any) -> None:
    """Log a warning if this client of the SDK sends a request again by itself."""
    config = getattr(sdk.meta, "config", None)  # an imitation of a client may have none
    if config is not None and (config.retries or {}).get("total_max_attempts") != 1:
        log.warning(
            "the client that was passed sends failed requests again by itself, beyond the limits of the store; create "
            "it with AioConfig(retries={'mode': 'standard', 'total_max_attempts': 1})"
        )


def _check_response(response_dict: dict[str, Any] | None, **_: object) -> None:
    """Raise TransportError if the response is damaged: without retries the SDK does not check that."""
    if response_dict is None:
        return
    expected = response_dict["headers"].get("x-amz-crc32")
    if expected is not None and int(expected) != crc32(response_dict["body"]):
        raise TransportError("the response has a wrong checksum")


async def open_sdk(
    stack: AsyncExitStack,
    *,
    session: Any,
    region_name: str | None,
    endpoint_url: str | None,
    max_connections: int,
    deadline: float,
    plain_http: bool,
    service: str = "dynamodb",
) -> tuple[Any, Any, str | None]:
    """Open a client of the SDK that sends each request once, whatever the environment configures.

    Return the client, which is open until `stack` closes; its credentials; and the path of the certificates that it
    trusts instead of the default ones, or None. Raises StoreRejected as `open_client`.
    """
    session = session or new_session()
    connect_timeout, timeout = divide(deadline)
    client = await open_client(
        stack,
        service,
        session=session,
        region_name=region_name,
        endpoint_url=endpoint_url,
        plain_http=plain_http,
        # Retries of the SDK would turn our own success into a conflict.
        retries={"mode": "standard", "total_max_attempts": 1},
        connect_timeout=connect_timeout,
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
    """Open a client of the SDK, which is open until `stack` closes. `config` is that of the SDK.

    Raises StoreRejected if

    - the SDK cannot make the client;
    - the endpoint is not just a scheme, a host and a port;
    - the endpoint is neither encrypted nor on this machine, and `plain_http` is false.
    """
    session = session or new_session()
    from aiobotocore.config import AioConfig
    from botocore.exceptions import BotoCoreError

    try:
        client: Any = session.client(
            service, region_name=region_name, endpoint_url=endpoint_url, config=AioConfig(**config)
        )
        opened = await stack.enter_async_context(client)
    except (BotoCoreError, ValueError) as error:  # for example no region, a missing profile, or a bad URL
        raise StoreRejected(type(error).__name__, f"{error}; see session, region_name and endpoint_url") from None
    endpoint = opened.meta.endpoint_url  # the environment or a profile may have set it
    if not _is_origin(endpoint):  # not quoted, because it may contain a password
        raise StoreRejected("ENDPOINT", "the endpoint must be a scheme, a host and a port, as http://localhost:8000")
    if not plain_http and not _is_confidential(endpoint):
        raise StoreRejected("PLAIN_HTTP", f"{endpoint} is not encrypted; use https, or pass plain_http=True")
    return opened


def _is_origin(endpoint: str) -> bool:
    """Whether the endpoint is only a scheme, a host and a port."""
    try:
        parts = urlsplit(endpoint)
        return parts.port != 0 and parts.path in ("", "/") and not parts.query and parts.username is None
    except ValueError:
        return False


def is_aws_endpoint(endpoint: str) -> bool:
    """Whether the endpoint is one of AWS, and not an emulator."""
    return (urlsplit(endpoint).hostname or "").endswith((".amazonaws.com", ".amazonaws.com.cn", ".api.aws"))


def _is_confidential(endpoint: str) -> bool:
    """Whether requests to the endpoint are encrypted, or stay on this machine."""
    parts = urlsplit(endpoint)
    if parts.scheme == "https" or parts.hostname == "localhost":
        return True
    try:
        return ip_address(parts.hostname or "").is_loopback
    except ValueError:
        return False
