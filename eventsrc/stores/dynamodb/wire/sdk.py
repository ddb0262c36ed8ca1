"""Opening clients of the SDK, and their adapter to the interface `Client`."""

from __future__ import annotations

import asyncio
import os
from collections.abc import Mapping
from contextlib import AsyncExitStack
from socket import gaierror
from ssl import SSLContext
from typing import Any, NamedTuple, TypeVar
from urllib.parse import urlsplit

import msgspec

from ....errors import StoreError, StoreRejected, StoreUnavailable
from ....log import log
from ....retrying import on_indefinite
from . import attempts
from .bodies import read_body, read_error
from .certificates import find_bundle, find_refusal, trust
from .client import CHECK_CREDENTIALS, NotSent, Reply, ServiceError, TransportError, divide
from .endpoints import find_endpoint, is_confidential, is_origin
from .outcomes import DeadlinePassed, to_store_rejected
from .session import core_session

T = TypeVar("T")

_CHECKS_NAMES = (3, 10)  # the first version of aiobotocore that checks the name in a certificate


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
    """A client of the SDK (aiobotocore, or aioboto3 over it) as a `Client`. It reads bodies and codes as `bodies` does.

    `timeout` is the number of seconds that a request may take in all. None leaves that to the client.
    """

    def __init__(self, sdk: Any, timeout: float | None = None) -> None:
        from aiohttp import ClientConnectorError
        from botocore import exceptions, xform_name

        from .credentials import explain  # imported here, because it imports the SDK

        self._sdk, self._timeout = sdk, timeout
        self._method_name = xform_name
        sdk.meta.events.register("provide-client-params", attempts.note_call, unique_id=f"{__name__}.note_call")
        sdk.meta.events.register("before-send", attempts.count_attempt, unique_id=f"{__name__}.count_attempt")
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
        sent = attempts.Attempts()
        token = attempts.running.set(sent)
        try:
            async with asyncio.timeout(self._timeout):  # the SDK limits parts of an exchange, and no lookup of a host
                return SDKReply(await getattr(self._sdk, self._method_name(operation))(**request))
        except self._client_error as error:
            if sent.is_nothing_sent and error.operation_name != operation:  # of the service that gives credentials
                failure: Exception = self._explain(error)
            else:
                response = error.response
                failure = ServiceError(
                    str(response.get("Error", {}).get("Code", "")),
                    int(response.get("ResponseMetadata", {}).get("HTTPStatusCode", 0)),
                    SDKReply(response),
                    repeated=sent.count > 1,
                )
        except asyncio.CancelledError as cancelled:
            if not sent.is_nothing_sent:
                raise
            raise cancelled from (
                NotSent("no connection") if sent.count else NotSent("no credentials", CHECK_CREDENTIALS)
            )
        except Exception as error:  # noqa: BLE001  # the SDK also raises errors of its HTTP library and parser
            name, cause = type(error).__name__, getattr(error, "kwargs", {}).get("error")
            if not sent.count and isinstance(error, self._bad_parameters):
                failure = ServiceError("ParamValidationError", 0)  # without the message, which quotes values
            elif sent.count <= 1 and (refusal := find_refusal(error)):
                failure = refusal
            elif not sent.count and (sent.are_counted or isinstance(error, self._no_credentials)):
                failure = self._explain(error)
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

    It is open until `stack` closes. Raises as `open_client`, but after an error that may pass it tries again until the
    deadline.
    """
    from .observed_session import ObservedSession  # here, because it imports the SDK

    connect_timeout, timeout = divide(deadline)

    async def once() -> OpenedClient:
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

    try:
        async with asyncio.timeout(deadline):
            opened: OpenedClient = await on_indefinite(lambda error: isinstance(error, StoreUnavailable), deadline)(
                once
            )
    except TimeoutError:
        reason = NotSent("no answer from the source of the credentials", CHECK_CREDENTIALS)
        raise DeadlinePassed(ambiguous=False, last=reason).to_store_error() from None
    return opened


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
    - the file of trusted certificates cannot be used;
    - the SDK will not find credentials, because the configuration is wrong.

    Raises StoreUnavailable if the source of the credentials failed, which may pass.
    """
    import aiobotocore
    from aiobotocore.config import AioConfig

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
    except Exception as error:  # noqa: BLE001  # sources of credentials raise errors of any kind
        failure = _explain_opening(error, session)
    else:
        if not is_origin(endpoint):  # not quoted, because it may contain a password
            raise StoreRejected("ENDPOINT", _ENDPOINT)
        if not plain_http and not is_confidential(endpoint):
            raise StoreRejected("PLAIN_HTTP", f"{endpoint} is not encrypted; use https, or pass plain_http=True")
        tls = trust(bundle, opened.meta.config.client_cert) if urlsplit(endpoint).scheme == "https" else None
        return OpenedClient(opened, endpoint, tls)
    raise failure  # outside the handler, because the SDK's error may contain what a command printed


def _explain_opening(error: Exception, session: Any) -> StoreError:
    """Return the library's error for a client that the SDK did not make."""
    from botocore.exceptions import BotoCoreError, CredentialRetrievalError, HTTPClientError, MetadataRetrievalError

    from .credentials import explain

    name = type(error).__name__
    if type(error) is ValueError:  # not quoted, because it may contain a password
        return StoreRejected(name, f"the SDK cannot parse the endpoint, or {_find_others()}; {_ENDPOINT}")
    explained = explain(error, session)
    if isinstance(explained, ServiceError):
        return to_store_rejected(explained)
    if isinstance(error, BotoCoreError) and not isinstance(
        error, (CredentialRetrievalError, HTTPClientError, MetadataRetrievalError)
    ):  # for example no region, or a bad URL
        return StoreRejected(name, f"{error}; see session, region_name, AWS_DEFAULT_REGION and endpoint_url")
    return DeadlinePassed(ambiguous=False, last=explained).to_store_error()


def _find_others() -> str:
    """Return what else of the environment the SDK may have refused."""
    container = [name for name in sorted(os.environ) if name.startswith("AWS_CONTAINER_")]
    return " or ".join(["credential_process", *container])


_ENDPOINT = "the endpoint must be a scheme, a host and a port, as http://localhost:8000"
