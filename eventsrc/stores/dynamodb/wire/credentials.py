"""Credentials for requests, and what an error of their source means.

The SDK finds and renews credentials. It reports errors in many ways, some with the output of a command. Here they are
permanent or transient, and a message names the profile, the file or the kind of source, never what is in it.
"""

from __future__ import annotations

import asyncio
import os
from typing import Any

from botocore.exceptions import ClientError, NoCredentialsError

from .client import CHECK_CREDENTIALS, NotSent, ServiceError
from .session import core_session
from .signature import Credentials

_RECHECK = 5.0
"""Seconds after which credentials that were not found are looked up again."""

_PERMANENT = frozenset(
    {
        "NoCredentialsError",
        "PartialCredentialsError",
        "ProfileNotFound",
        "ConfigNotFound",
        "ConfigParseError",
        "InvalidConfigError",
        "UnknownCredentialError",
        "SSOTokenLoadError",
        "UnauthorizedSSOTokenError",
        "TokenRetrievalError",
        "RefreshWithMFAUnsupportedError",
    }
)
"""Errors of the SDK whose messages are its own, with names of profiles, files and settings."""

_UNREADABLE = (FileNotFoundError, PermissionError, IsADirectoryError, NotADirectoryError)

_REFUSALS = frozenset(
    {
        "AccessDenied",
        "AccessDeniedException",
        "ForbiddenException",
        "InvalidClientTokenId",
        "InvalidIdentityToken",
        "InvalidRequestException",
        "MalformedPolicyDocument",
        "RegionDisabledException",
        "ResourceNotFoundException",
        "SignatureDoesNotMatch",
        "UnauthorizedException",
        "UnrecognizedClientException",
        "ValidationError",
    }
)
"""Codes of STS and SSO that do not change with time. An expired web identity token is renewed by the platform."""

_SOURCES = {
    "custom-process": "the command of credential_process",
    "iam-role": "the instance metadata service",
    "Ec2InstanceMetadata": "the instance metadata service",
    "container-role": "the credentials endpoint of the container",
    "EcsContainer": "the credentials endpoint of the container",
    "assume-role": "assuming the role of the profile",
    "assume-role-with-web-identity": "assuming the role with the web identity token",
    "sso": "the SSO session",
}


class CredentialSource:
    """The credentials of a session of the SDK.

    If there are none, they are looked up again after a while: for the SDK, an instance without a role looks the same as
    a metadata service that has failed once.
    """

    def __init__(self, session: Any) -> None:
        self._session = session
        self._found: Any = None  # the SDK's object
        self._next_search = 0.0  # the loop's time
        self._lock = asyncio.Lock()

    async def get(self) -> Credentials:
        """Return credentials that are valid now.

        Raises:
            NotSent: their source failed, which may pass.
            ServiceError: there are none, or the configuration is wrong. `detail` says what to correct.
            CancelledError: the cause is NotSent.
        """
        try:
            found = self._found if self._found is not None else await self._find()
            frozen = await found.get_frozen_credentials()
        except asyncio.CancelledError as cancelled:
            raise cancelled from NotSent("no credentials", CHECK_CREDENTIALS)
        except Exception as error:  # noqa: BLE001  # any error of the credentials' source; nothing was sent
            failure = explain(error, self._session, getattr(self._found, "method", ""))
        else:
            in_headers = f"{frozen.access_key}{frozen.token or ''}"
            if frozen.access_key and frozen.secret_key and in_headers.isascii() and in_headers.isprintable():
                return Credentials(frozen.access_key, frozen.secret_key, frozen.token)
            detail = "they are empty, or have a character that a header cannot contain"
            failure = ServiceError("CredentialRetrievalError", 0, detail=f"{detail}; {describe(self._session)}")
        raise failure  # outside the handlers, because the SDK's error may contain what a command printed

    async def _find(self) -> Any:
        """Return the SDK's object. Raises NoCredentialsError, and errors of the sources."""
        async with self._lock:
            now = asyncio.get_running_loop().time()
            if self._found is None and now >= self._next_search:
                self._found = await self._session.get_credentials()
                self._next_search = asyncio.get_running_loop().time() + _RECHECK
        if self._found is None:
            raise NoCredentialsError
        return self._found


def explain(error: Exception, session: Any = None, method: str = "") -> ServiceError | NotSent:
    """Return ServiceError if getting credentials will fail again in the same way, otherwise NotSent.

    `method` is the SDK's name of the source, if the error does not have it.
    """
    where = describe(session) if session is not None else "see the configuration of the credentials"
    name = type(error).__name__
    for base in type(error).__mro__:
        if base.__name__ in _PERMANENT:
            return ServiceError(base.__name__, 0, detail=f"{error}; {where}")
    if isinstance(error, _UNREADABLE):
        # A relative name may be the start of a command, and so a secret: `TOKEN=... command`.
        path = f": {error.filename}" if os.path.isabs(str(error.filename)) else ""
        detail = f"a file or a command that the configuration names cannot be used ({name}{path}); {where}"
        return ServiceError("CredentialRetrievalError", 0, detail=detail)
    source = _SOURCES.get(getattr(error, "kwargs", {}).get("provider", method), "the source of the credentials")
    if isinstance(error, ClientError):
        source, name = error.operation_name, str(error.response.get("Error", {}).get("Code", ""))
        if name in _REFUSALS:
            return ServiceError("CredentialRetrievalError", 0, detail=f"{source} was refused with {name}; {where}")
    return NotSent(f"no credentials, because {source} failed ({name}; {where})", CHECK_CREDENTIALS)


def describe(session: Any) -> str:
    """Return the profile of a session, and the files that may have it."""
    read = core_session(session).get_config_variable
    return f"profile {read('profile') or 'default'} in {read('config_file')} or {read('credentials_file')}"
