"""Opening clients of the SDK, and their adapter to the interface `Client`."""

from __future__ import annotations

import asyncio
from collections.abc import Mapping
from contextlib import AsyncExitStack
from contextvars import ContextVar
from importlib.util import find_spec
from ipaddress import ip_address
from socket import gaierror
from ssl import create_default_context
from typing import Any, TypeVar
from urllib.parse import urlsplit

import msgspec

from ....errors import StoreError, StoreRejected, StoreUnavailable
from ....log import log
from ....retrying import on_indefinite
from .bodies import read_body, read_error
from .client import CHECK_CREDENTIALS, NotSent, Reply, ServiceError, TransportError, divide
from .outcomes import DeadlinePassed, to_store_rejected

T = TypeVar("T")

_PACKAGES = ("aioboto3", "httptools")  # what the extra installs


def check_installed() -> None:
    """Raise ModuleNotFoundError, which names the extra to install, if a package that DynamoDB needs is missing."""
    if missing := [name for name in _PACKAGES if find_spec(name) is None]:
        advice = f'DynamoDB needs {" and ".join(missing)}; run: pip install "eventsrc[dynamodb]"'
        raise ModuleNotFoundError(advice, name=missing[0])


def new_session(**settings: str) -> Any:
    """Return a session of the SDK.

    Raises ModuleNotFoundError as `check_installed`, and StoreRejected if the profile or its file is not usable.
    """
    check_installed()
    import aioboto3  # here, because it is slow to import
    from botocore.exceptions import BotoCoreError

    try:
        return aioboto3.Session(**settings)
    except BotoCoreError as error:
        failure = _explain_opening(error)
    raise failure


class SDKReply:
    """A response that the SDK has parsed."""

    def __init__(self, response: Mapping[str, Any]) -> None:
        self._response = response

    @property
    def date(self) -> str:
        return self._header("date")

    @property
    def request_id(self) -> str:
        return self._header("x-amzn-requestid")

    def _header(self, name: str) -> str:
        return str(self._response.get("ResponseMetadata", {}).get("HTTPHeaders", {}).get(name, ""))

    def read(self, kind: type[T]) -> T:
        return msgspec.convert(self._response, kind)


class SDKClient:
    """A client of the SDK (aioboto3, aiobotocore) as a `Client`. It reads bodies and codes as `bodies` does."""

    def __init__(self, sdk: Any) -> None:
        from aiohttp import ClientConnectorError
        from botocore import exceptions, xform_name

        from .credentials import explain  # imported here, because it imports the SDK

        self._sdk = sdk
        self._method_name = xform_name
        sdk.meta.events.register("provide-client-params", _note_call, unique_id=f"{__name__}.note_call")
        sdk.meta.events.register("before-send", _count_attempt, unique_id=f"{__name__}.count_attempt")
        sdk.meta.events.register("before-parse", _read_response, unique_id=f"{__name__}.read_response")
        self._explain = explain
        self._client_error = exceptions.ClientError
        self._bad_parameters = exceptions.ParamValidationError
        self._no_credentials = (
            exceptions.NoCredentialsError,
            exceptions.PartialCredentialsError,
            exceptions.CredentialRetrievalError,
        )
        self._not_connected = (exceptions.ConnectTimeoutError, exceptions.ProxyConnectionError, exceptions.SSLError)
        self._connector_errors = (ClientConnectorError, gaierror)

    async def call(self, operation: str, request: Mapping[str, Any]) -> Reply:
        attempts = _Attempts()
        token = _attempts.set(attempts)
        try:
            return SDKReply(await getattr(self._sdk, self._method_name(operation))(**request))
        except self._client_error as error:
            if attempts.none_sent and error.operation_name != operation:  # of the service that gives credentials
                failure: Exception = self._explain(error)
            else:
                response = error.response
                failure = ServiceError(
                    str(response.get("Error", {}).get("Code", "")),
                    int(response.get("ResponseMetadata", {}).get("HTTPStatusCode", 0)),
                    SDKReply(response),
                    repeated=attempts.count > 1,
                )
        except asyncio.CancelledError as cancelled:
            if not attempts.none_sent:
                raise
            raise cancelled from NotSent("no credentials", CHECK_CREDENTIALS)
        except Exception as error:  # noqa: BLE001  # the SDK also raises errors of its HTTP library and parser
            name = type(error).__name__
            if isinstance(error, self._bad_parameters) and not attempts.count:
                failure = ServiceError("ParamValidationError", 0)  # without the message, which quotes values
            elif attempts.none_sent or (isinstance(error, self._no_credentials) and not attempts.count):
                failure = self._explain(error)
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

    @property
    def none_sent(self) -> bool:
        """Whether nothing was sent for certain."""
        return self.are_counted and not self.count


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


def _read_response(response_dict: dict[str, Any], customized_response_dict: dict[str, Any], **_: object) -> None:
    """Prepare a response for the SDK's parser, which knows neither gzip nor all forms of a code.

    Raises TransportError as `read_body`.
    """
    headers = {name.lower(): value for name, value in response_dict["headers"].items()}
    response_dict["body"] = body = read_body(headers, response_dict["body"])
    if response_dict["status_code"] >= 300:
        code, message = read_error(headers, body)
        if code:
            customized_response_dict["Error"] = {"Code": code, "Message": message}


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

    Return the client, which is open until `stack` closes; the session; and the path of the certificates that it
    trusts instead of the default ones, or None. Raises as `open_client`, but after an error that may pass it tries
    again until the deadline.
    """
    session = session or new_session()
    connect_timeout, timeout = divide(deadline)

    async def once() -> Any:
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
        )

    try:
        async with asyncio.timeout(deadline):
            client: Any = await on_indefinite(lambda error: isinstance(error, StoreUnavailable), deadline)(once)
    except TimeoutError:
        reason = NotSent("no answer from the source of the credentials", CHECK_CREDENTIALS)
        raise DeadlinePassed(ambiguous=False, last=reason).to_store_error() from None
    ca_bundle: str | None = session._session.get_config_variable("ca_bundle")  # noqa: SLF001  # no other way
    if ca_bundle and client.meta.endpoint_url.startswith("https:"):
        _check_ca_bundle(ca_bundle)
    return client, session, ca_bundle


def _check_ca_bundle(path: str) -> None:
    """Raise StoreRejected if a file of certificates cannot be used: the SDK reads it with the first request only."""
    try:
        create_default_context(cafile=path)
    except OSError as error:
        reason = type(error).__name__
    else:
        return
    raise StoreRejected(
        "CA_BUNDLE", f"no certificates can be read from {path} ({reason}); correct AWS_CA_BUNDLE, or ca_bundle"
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
) -> Any:
    """Open a client of the SDK, which is open until `stack` closes. `config` is that of the SDK.

    Raises StoreRejected if

    - the SDK cannot make the client, or will not find credentials;
    - the endpoint is not just a scheme, a host and a port;
    - the endpoint is neither encrypted nor on this machine, and `plain_http` is false.

    Raises StoreUnavailable if the source of the credentials failed, which may pass.
    """
    session = session or new_session()
    from aiobotocore.config import AioConfig

    client: Any = session.client(
        service, region_name=region_name, endpoint_url=endpoint_url, config=AioConfig(**config)
    )
    try:
        opened = await stack.enter_async_context(client)
    except Exception as error:  # noqa: BLE001  # sources of credentials raise errors of any kind
        failure = _explain_opening(error, session)
    else:
        _check_endpoint(opened.meta.endpoint_url, plain_http)  # the environment or a profile may have set it
        return opened
    raise failure  # outside the handler, because the SDK's error may contain what a command printed


def _explain_opening(error: Exception, session: Any = None) -> StoreError:
    """Return the library's error for a client that the SDK did not make."""
    from botocore.exceptions import BotoCoreError, CredentialRetrievalError, HTTPClientError, MetadataRetrievalError

    from .credentials import explain

    name = type(error).__name__
    if type(error) is ValueError:  # not quoted, because it may contain a password
        return StoreRejected(name, f"the SDK cannot parse the endpoint, or credential_process; {_ENDPOINT}")
    explained = explain(error, session)
    if isinstance(explained, ServiceError):
        return to_store_rejected(explained)
    if isinstance(error, BotoCoreError) and not isinstance(
        error, (CredentialRetrievalError, HTTPClientError, MetadataRetrievalError)
    ):  # for example no region, or a bad URL
        return StoreRejected(name, f"{error}; see session, region_name and endpoint_url")
    return DeadlinePassed(ambiguous=False, last=explained).to_store_error()


_ENDPOINT = "the endpoint must be a scheme, a host and a port, as http://localhost:8000"


def _check_endpoint(endpoint: str, plain_http: bool) -> None:
    if not _is_origin(endpoint):  # not quoted, because it may contain a password
        raise StoreRejected("ENDPOINT", _ENDPOINT)
    if not plain_http and not _is_confidential(endpoint):
        raise StoreRejected("PLAIN_HTTP", f"{endpoint} is not encrypted; use https, or pass plain_http=True")


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
