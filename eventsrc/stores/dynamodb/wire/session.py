"""Sessions of the SDK, which have the configuration and the credentials."""

from __future__ import annotations

from importlib.util import find_spec
from typing import Any

_PACKAGES = ("aiobotocore", "httptools")  # what the extra installs


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
