"""Failures of hosts on the network: one set of messages for registries, key services and brokers.

This module imports only the standard library. Errors of urllib3 and requests are recognized by their causes.
"""

from __future__ import annotations

import random
import ssl
from collections.abc import Iterator
from ipaddress import ip_address
from socket import gaierror
from typing import Literal, NamedTuple

from decoder import limits
from decoder.errors import quoted

Kind = Literal["certificate", "tls", "ended", "late", "unknown", "refused", "unreachable", "protocol"]

# Statuses after which the same request may succeed (RFC 9110 §15, RFC 6585 §4). 500 is not among them, because it means
# that the server failed at this request. Clients of registries add it, because registries and proxies send it for
# temporary failures, too.
BUSY_STATUSES = frozenset((408, 429, 502, 503, 504))

_RETRIED: frozenset[Kind] = frozenset(("ended", "late", "refused", "unreachable"))
# OpenSSL's numbers for problems of a certificate (X509_V_ERR_…, x509_vfy.h).
_VERDICTS = {
    9: "it is not valid yet",
    10: "it has expired",
    23: "it was revoked",
    **dict.fromkeys((62, 64), "it is for another name"),
    **dict.fromkeys((2, 18, 19, 20, 21), "it is not from a trusted authority"),
}
_NOT_TLS = ("WRONG_VERSION_NUMBER", "RECORD_LAYER_FAILURE", "PACKET_LENGTH_TOO_LONG", "HTTP_REQUEST")

_ENDED = "{host} ended the connection"
_LATE = "{host} did not answer in time"
# The first line that matches is used.
_MEANINGS: tuple[tuple[type[BaseException] | tuple[type[BaseException], ...], Kind, str], ...] = (
    (ssl.SSLCertVerificationError, "certificate", "the certificate of {host} is not accepted: {reason}"),
    ((ssl.SSLEOFError, ConnectionResetError, BrokenPipeError, EOFError), "ended", _ENDED),
    (ssl.SSLError, "tls", "there is no TLS connection with {host}: {reason}"),
    (TimeoutError, "late", _LATE),
    (gaierror, "unknown", "the host {host} cannot be found: {reason}"),
    (ConnectionRefusedError, "refused", "{host} cannot be reached: {reason}"),
)
# Classes of http.client, urllib3 and requests, which need not be installed.
_MEANINGS_BY_NAME: tuple[tuple[tuple[str, ...], Kind, str], ...] = (
    (("Timeout", "TimeoutError"), "late", _LATE),
    (("ProxyError",), "unreachable", "{host} cannot be reached through the proxy"),
    (("RemoteDisconnected", "IncompleteRead", "ProtocolError"), "ended", _ENDED),
)


class Failure(NamedTuple):
    """The reason why a conversation with a host failed.

    Attributes:
        kind: the kind of failure, for programs.
        text: a message for people. It names the host, but nothing that was sent or received.
    """

    kind: Kind
    text: str

    @property
    def may_pass(self) -> bool:
        """Whether the next attempt may succeed."""
        return self.kind in _RETRIED


def explain(error: BaseException, host: str) -> Failure:
    """Find out why a conversation failed, from an exception and its causes.

    Args:
        error: the exception from a library.
        host: the host's name for the message, with its port if that matters.
    """
    for cause in _causes(error):
        if found := _explained(cause, host):
            return found
    return Failure("protocol", f"{host} does not speak HTTP as expected ({type(error).__name__})")


def verdict(error: ssl.SSLCertVerificationError) -> str:
    """Return the problem of a certificate in words, such as `it has expired`."""
    known = _VERDICTS.get(error.verify_code)
    return f"{known} ({quoted(error.verify_message)[1:-1]})" if known else quoted(error.verify_message)[1:-1]


def tls_reason(error: ssl.SSLError) -> str:
    """Return the reason why a TLS handshake failed, unless it is the peer's certificate."""
    reason = getattr(error, "reason", None) or type(error).__name__  # only OpenSSL's own errors have a reason
    if "CERTIFICATE_REQUIRED" in reason or "HANDSHAKE_FAILURE" in reason:
        return f"it may ask for a client certificate ({reason})"
    if "ALERT" in reason and ("CERTIFICATE" in reason or "UNKNOWN_CA" in reason):
        return f"it does not accept our client certificate ({reason})"
    if reason in _NOT_TLS:
        return f"it does not speak TLS ({reason})"
    return reason


def split_host_port(address: str) -> tuple[str, int]:
    """Split HOST:PORT; an IPv6 address is in brackets, and is returned without them.

    Raises:
        ValueError: it has another form, or the port is above 65535.
    """
    host, colon, port = address.rpartition(":")
    if not colon or not (port.isascii() and port.isdigit()) or len(port) > 5 or int(port) > 65535:
        raise ValueError("not HOST:PORT")
    return host.removeprefix("[").removesuffix("]"), int(port)


def is_loopback(host: str) -> bool:
    """Check whether a host, an address without brackets or a name, is this machine's loopback interface."""
    try:
        return ip_address(host).is_loopback
    except ValueError:
        return host == "localhost"


def retry_after(value: str | None) -> float:
    """Return Retry-After (RFC 9110 §10.2.3) in seconds; 0 if it is absent, a date, or malformed."""
    text = (value or "").strip()
    return float(text) if text.isascii() and text.isdigit() and len(text) < 10 else 0.0


def pauses(first: float, longest: float) -> Iterator[float]:
    """Yield random pauses between attempts, in seconds, without end; their upper bound doubles each time.

    The whole pause is random ("full jitter"), so that clients that failed at the same moment do not come back at the
    same moment.

    Args:
        first: the bound of the first pause, in seconds.
        longest: the bound that all pauses keep, in seconds.
    """
    bound = first
    while True:
        yield random.uniform(0, bound)  # noqa: S311 - nothing secret depends on it
        bound = min(2 * bound, longest)


def _explained(cause: BaseException, host: str) -> Failure | None:
    for kinds, kind, text in _MEANINGS:
        if isinstance(cause, kinds):
            return Failure(kind, text.format(host=host, reason=_reason(cause)))
    for names, kind, text in _MEANINGS_BY_NAME:
        if any(base.__name__ in names for base in type(cause).__mro__):
            return Failure(kind, text.format(host=host))
    if isinstance(cause, OSError) and cause.strerror:
        return Failure("unreachable", f"{host} cannot be reached: {cause.strerror}")
    return None


def _reason(error: BaseException) -> str:
    if isinstance(error, ssl.SSLCertVerificationError):
        return verdict(error)
    if isinstance(error, ssl.SSLError):
        return tls_reason(error)
    return str(getattr(error, "strerror", "") or "")


def _causes(error: BaseException) -> Iterator[BaseException]:
    """Return an exception and its causes, the innermost first; urllib3 keeps some as arguments or in `reason`."""
    found: list[BaseException] = []
    waiting = [error]
    while waiting and len(found) < limits.ERROR_CAUSES:
        current = waiting.pop()
        if any(current is known for known in found):
            continue
        found.append(current)
        inner = [current.__cause__, current.__context__, getattr(current, "reason", None), *current.args]
        waiting += [item for item in inner if isinstance(item, BaseException)]
    return reversed(found)
