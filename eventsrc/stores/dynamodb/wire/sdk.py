"""Opening clients of the SDK, and their adapter to the interface `Client`."""

from __future__ import annotations

import asyncio
from collections.abc import Mapping
from contextlib import AsyncExitStack
from importlib.util import find_spec
from socket import gaierror
from ssl import SSLContext
from typing import Any, NamedTuple, TypeVar
from urllib.parse import urlsplit
from zlib import crc32

import msgspec

from ....errors import StoreRejected
from ....log import log
from . import attempts
from .certificates import find_bundle, find_refusal, trust
from .client import NotSent, Reply, ServiceError, TransportError, divide
from .endpoints import find_endpoint, is_confidential, is_origin

T = TypeVar("T")

_PACKAGES = ("aiobotocore", "httptools")  # what the extra installs
_CHECKS_NAMES = (3, 10)  # the first version of aiobotocore that checks the name in a certificate


def check_installed() -> None:
    """Raise ModuleNotFoundError, which names the extra to install, if a package that DynamoDB needs is missing."""
    if missing := [name for name in _PACKAGES if find_spec(name) is None]:
        advice = f'DynamoDB needs {" and ".join(missing)}; run: pip install "eventsrc[dynamodb]"'
        raise ModuleNotFoundError(advice, name=missing[0])


def new_session() -> Any:
    """Return a session of the SDK. Raises ModuleNotFoundError as `check_installed`."""
    check_installed()
    from aiobotocore.session import get_session  # here, because it is slow to import

    return get_session()


def core_session(session: Any) -> Any:
    """Return the session of aiobotocore that this is, or that this one of aioboto3 has."""
    return getattr(session, "_session", session)


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
    """A client of the SDK (aiobotocore, or aioboto3 over it) as a `Client`. It verifies the checksum of each response.

    `timeout` is the number of seconds that a request may take in all. None leaves that to the client.
    """

    def __init__(self, sdk: Any, timeout: float | None = None) -> None:
        from aiohttp import ClientConnectorError
        from botocore import exceptions, xform_name

        self._sdk, self._timeout = sdk, timeout
        self._method_name = xform_name
        sdk.meta.events.register("provide-client-params", attempts.note_call, unique_id=f"{__name__}.note_call")
        sdk.meta.events.register("before-send", attempts.count_attempt, unique_id=f"{__name__}.count_attempt")
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
        sent = attempts.Attempts()
        token = attempts.running.set(sent)
        try:
            async with asyncio.timeout(self._timeout):  # the SDK limits parts of an exchange, and no lookup of a host
                return SDKReply(await getattr(self._sdk, self._method_name(operation))(**request))
        except self._client_error as error:
            response = error.response
            failure: Exception = ServiceError(
                str(response.get("Error", {}).get("Code", "")),
                int(response.get("ResponseMetadata", {}).get("HTTPStatusCode", 0)),
                SDKReply(response),
                repeated=sent.count > 1,
            )
        except asyncio.CancelledError as cancelled:
            if not sent.is_nothing_sent:
                raise
            raise cancelled from NotSent("no connection" if sent.count else "no credentials")
        except Exception as error:  # noqa: BLE001  # the SDK also raises errors of its HTTP library and parser
            name, cause = type(error).__name__, getattr(error, "kwargs", {}).get("error")
            if not sent.count and isinstance(error, self._not_prepared):
                failure = ServiceError(name, 0)
            elif sent.count <= 1 and (refusal := find_refusal(error)):
                failure = refusal
            elif sent.is_nothing_sent or (sent.count <= 1 and self._is_not_connected(error, cause)):
                failure = NotSent(name)
            else:
                failure = TransportError(name)
        finally:
            attempts.running.reset(token)
        raise failure  # outside the handlers: the SDK's error may hold another writer's payload

    def _is_not_connected(self, error: Exception, cause: object) -> bool:
        """Whether the SDK could not make a connection, to the service or to a proxy."""
        # The SDK raises one error for this and for a lost connection; their causes differ.
        return isinstance(error, self._not_connected) or isinstance(cause, self._connector_errors)


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


class OpenedClient(NamedTuple):
    client: Any
    endpoint: str
    tls: SSLContext | None  # the certificates that the client trusts; None without encryption


async def open_sdk(
    stack: AsyncExitStack,
    service: str,
    *,
    session: Any,
    region_name: str | None,
    endpoint_url: str | None,
    plain_http: bool,
    max_connections: int,
    deadline: float,
    **config: Any,
) -> OpenedClient:
    """Open a client of the SDK that sends each request once, whatever the environment configures.

    It is open until `stack` closes. Raises StoreRejected as `open_client`.
    """
    from .observed_session import ObservedSession  # here, because it imports the SDK

    connect_timeout, timeout = divide(deadline)
    return await open_client(
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
        http_session_cls=ObservedSession,
        **config,
    )


async def open_client(
    stack: AsyncExitStack,
    service: str,
    *,
    session: Any,
    region_name: str | None,
    endpoint_url: str | None,
    plain_http: bool,
    **config: Any,
) -> OpenedClient:
    """Open a client of the SDK, which is open until `stack` closes.

    `session` is one of aiobotocore or aioboto3. `config` is that of the SDK.

    Raises StoreRejected if

    - the SDK does not check the names in certificates, because it is too old;
    - it cannot make the client, or does not send requests with these settings;
    - the endpoint is not just a scheme, a host and a port;
    - the endpoint is neither encrypted nor on this machine, and `plain_http` is false;
    - the file of trusted certificates cannot be used.
    """
    import aiobotocore
    from aiobotocore.config import AioConfig
    from botocore.exceptions import BotoCoreError

    if tuple(map(int, aiobotocore.__version__.split(".")[:2])) < _CHECKS_NAMES:  # another package may require it
        raise StoreRejected(
            "SDK",
            f"aiobotocore {aiobotocore.__version__} does not check the names in certificates; install 3.10 or newer",
        )
    create = getattr(session, "create_client", None) or session.client
    try:
        bundle = find_bundle(core_session(session))
        client: Any = create(
            service,
            region_name=region_name,
            endpoint_url=endpoint_url,
            verify=bundle or True,
            config=AioConfig(**config),
        )
        opened = await stack.enter_async_context(client)
        # Objects of S3 are at other hosts of the same endpoint.
        endpoint = opened.meta.endpoint_url if service == "s3" else await find_endpoint(opened)
    except (BotoCoreError, ValueError) as error:  # for example no region, a missing profile, or a bad URL
        raise StoreRejected(type(error).__name__, f"{error}; see session, region_name and endpoint_url") from None
    if not is_origin(endpoint):  # not quoted, because it may contain a password
        raise StoreRejected("ENDPOINT", "the endpoint must be a scheme, a host and a port, as http://localhost:8000")
    if not plain_http and not is_confidential(endpoint):
        raise StoreRejected("PLAIN_HTTP", f"{endpoint} is not encrypted; use https, or pass plain_http=True")
    tls = trust(bundle, opened.meta.config.client_cert) if urlsplit(endpoint).scheme == "https" else None
    return OpenedClient(opened, endpoint, tls)
