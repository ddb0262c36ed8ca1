"""AWS Signature Version 4, for requests of this one kind: POST to the root of a host, with a body of JSON.

Source: "Create a signed AWS API request" in the AWS Identity and Access Management User Guide.
"""

from __future__ import annotations

import hmac
from datetime import UTC, datetime
from hashlib import sha256
from typing import NamedTuple

_ALGORITHM = "AWS4-HMAC-SHA256"


class Credentials(NamedTuple):
    """What signs. `token` belongs to those that expire."""

    access_key: str
    secret_key: str
    token: str | None = None


class Signer:
    """Signs for one host, region and service. A day's key is kept: four of the five hashes are the same all day."""

    def __init__(self, host: str, region: str, service: str = "dynamodb") -> None:
        self._host, self._region, self._service = host, region, service
        self._key_for: tuple[str, str] = ("", "")
        self._key = b""

    def headers(self, target: str, body: bytes, credentials: Credentials, now: float) -> dict[str, str]:
        """All headers of a signed request; `now` is in seconds since the epoch."""
        stamp = datetime.fromtimestamp(now, UTC).strftime("%Y%m%dT%H%M%SZ")
        scope = f"{stamp[:8]}/{self._region}/{self._service}/aws4_request"
        signed = {"content-type": "application/x-amz-json-1.0", "host": self._host, "x-amz-date": stamp}
        if credentials.token:
            signed["x-amz-security-token"] = credentials.token
        signed["x-amz-target"] = target
        names = ";".join(signed)  # in the order of the alphabet, as they were put in
        lines = "".join(f"{name}:{value}\n" for name, value in signed.items())
        canonical = f"POST\n/\n\n{lines}\n{names}\n{sha256(body).hexdigest()}"
        text = f"{_ALGORITHM}\n{stamp}\n{scope}\n{sha256(canonical.encode()).hexdigest()}"
        signature = hmac.digest(self._day_key(credentials.secret_key, stamp[:8]), text.encode(), "sha256").hex()
        signed["authorization"] = (
            f"{_ALGORITHM} Credential={credentials.access_key}/{scope}, SignedHeaders={names}, Signature={signature}"
        )
        return signed

    def _day_key(self, secret: str, day: str) -> bytes:
        if self._key_for != (secret, day):
            key = f"AWS4{secret}".encode()
            for part in (day, self._region, self._service, "aws4_request"):
                key = hmac.digest(key, part.encode(), "sha256")
            self._key_for, self._key = (secret, day), key
        return self._key
