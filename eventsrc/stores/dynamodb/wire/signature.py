"""AWS Signature Version 4 for the requests of DynamoDB: POST to the root of a host, with a JSON body.

Source: "Create a signed AWS API request" in the AWS Identity and Access Management User Guide.
"""

from __future__ import annotations

import hmac
from hashlib import sha256
from time import gmtime, strftime
from typing import NamedTuple

_ALGORITHM = "AWS4-HMAC-SHA256"


class Credentials(NamedTuple):
    """AWS credentials. Temporary ones have a `token`. Printed, they show the access key only."""

    access_key: str
    secret_key: str
    token: str | None = None

    def __repr__(self) -> str:
        return f"Credentials({self.access_key!r}, ...)"


class Signer:
    """Signs requests to one host, region and service. The time stamp and the key of the day are cached."""

    def __init__(self, host: str, region: str, service: str = "dynamodb") -> None:
        self._host, self._region, self._service = host, region, service
        self._second = -1
        self._stamp = ""
        self._key_for: tuple[str, str] = ("", "")
        self._hmac = hmac.new(b"", digestmod=sha256)

    def headers(self, target: str, body: bytes, credentials: Credentials, now: float) -> dict[str, str]:
        """Return all headers of a signed request. `now` is in seconds since the epoch."""
        if int(now) != self._second:
            self._second, self._stamp = int(now), strftime("%Y%m%dT%H%M%SZ", gmtime(now))
        stamp = self._stamp
        scope = f"{stamp[:8]}/{self._region}/{self._service}/aws4_request"
        signed = {"content-type": "application/x-amz-json-1.0", "host": self._host, "x-amz-date": stamp}
        if credentials.token:
            signed["x-amz-security-token"] = credentials.token
        signed["x-amz-target"] = target
        names = ";".join(signed)  # in alphabetical order, as they were added
        lines = "".join([f"{name}:{value}\n" for name, value in signed.items()])
        canonical = f"POST\n/\n\n{lines}\n{names}\n{sha256(body).hexdigest()}"
        text = f"{_ALGORITHM}\n{stamp}\n{scope}\n{sha256(canonical.encode()).hexdigest()}"
        signature = self._hmac_of_day(credentials.secret_key, stamp[:8]).copy()
        signature.update(text.encode())
        signed["authorization"] = (
            f"{_ALGORITHM} Credential={credentials.access_key}/{scope}, SignedHeaders={names}, "
            f"Signature={signature.hexdigest()}"
        )
        return signed

    def _hmac_of_day(self, secret: str, day: str) -> hmac.HMAC:
        """Return an HMAC with the key of the day. Callers update a copy of it."""
        if self._key_for != (secret, day):
            key = f"AWS4{secret}".encode()
            for part in (day, self._region, self._service, "aws4_request"):
                key = hmac.digest(key, part.encode(), "sha256")
            self._key_for, self._hmac = (secret, day), hmac.new(key, digestmod=sha256)
        return self._hmac
