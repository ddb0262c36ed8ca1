"""The certificates that clients trust: those that the SDK trusts, and always with a check of the name."""

from __future__ import annotations

import os
from ssl import SSLCertVerificationError, SSLContext
from typing import Any

from ....errors import StoreRejected
from .client import CertificateRefused

_EXPIRED = "renew it, or correct the clock of this machine"
_NAME = "use an endpoint that it names; something between this process and the endpoint may answer for it"
_ADVICE = {9: _EXPIRED, 10: _EXPIRED, 62: _NAME, 64: _NAME}  # by the codes of OpenSSL, x509_vfy.h
_AUTHORITY = "set AWS_CA_BUNDLE, or ca_bundle of the profile, to a file with the certificate of its authority"


def find_bundle(session: Any) -> str | None:
    """Return the path of the file of authorities that the environment or the profile names; None for the default.

    `session` is one of aiobotocore. An empty setting is the default too. (It makes the SDK trust everyone.)
    """
    return session.get_config_variable("ca_bundle") or os.environ.get("REQUESTS_CA_BUNDLE") or None


def trust(bundle: str | None, client_certificate: Any = None) -> SSLContext:
    """Return the settings of TLS with which the SDK connects, and the check of the name.

    `client_certificate` is that of the SDK's config: a file, or one with a certificate and one with its key.

    Raises StoreRejected, which names the file, if a file has no certificates.
    """
    from botocore.httpsession import create_urllib3_context, get_cert_path  # here, because they are slow to import

    # As the SDK's, it accepts authorities that Python's own default refuses since 3.13.
    context: SSLContext = create_urllib3_context()
    context.check_hostname = True
    path = get_cert_path(bundle or True)
    try:
        context.load_verify_locations(path)
        if client_certificate:
            path = client_certificate
            files = (path,) if isinstance(path, str) else path
            context.load_cert_chain(*files)
    except OSError as error:
        reason = getattr(error, "reason", None) or error.strerror or type(error).__name__
        raise StoreRejected(
            "CertificateFile", f"{path} has no certificates to load ({reason}); see AWS_CA_BUNDLE and ca_bundle"
        ) from None
    return context


def explain_refusal(host: str, error: SSLCertVerificationError) -> CertificateRefused:
    """Return the error for a certificate of `host` that was refused."""
    return CertificateRefused(
        f"the certificate of {host} is refused: {error.verify_message}; {_ADVICE.get(error.verify_code, _AUTHORITY)}"
    )


def find_refusal(error: Exception) -> CertificateRefused | None:
    """Return the error for a certificate that was refused, if this error of the SDK is one."""
    cause = getattr(error, "kwargs", {}).get("error")
    refused = getattr(cause, "certificate_error", None)
    if isinstance(refused, SSLCertVerificationError):
        return explain_refusal(getattr(cause, "host", "the endpoint"), refused)
    return None
