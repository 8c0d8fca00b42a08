"""Hosts in a registry's URLs, and errors of requests to them."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from http.client import HTTPException
from typing import NamedTuple
from urllib.parse import SplitResult, urlsplit

from decoder.errors import ImageError, quoted
from decoder.extras import missing
from decoder.node.network import explain, is_loopback

try:
    from urllib3.exceptions import HTTPError
except ImportError as error:
    raise ImageError(missing("image", error)) from error


class UnreachableError(ImageError):
    """A request to a host failed; another attempt may succeed."""


class NotTlsError(UnreachableError):
    """A host does not speak TLS."""


class RefusedError(ImageError):
    """No server listens at a host's port."""


_KINDS = {"certificate": ImageError, "unknown": ImageError, "tls": NotTlsError, "refused": RefusedError}


class Origin(NamedTuple):
    """The scheme, host and port of a URL (RFC 6454). Secrets for one origin are not sent to another."""

    scheme: str
    host: str
    port: int

    @property
    def is_loopback(self) -> bool:
        """Whether it is this machine, by its name or address."""
        return is_loopback(self.host)

    def __str__(self) -> str:
        return f"{f'[{self.host}]' if ':' in self.host else self.host}:{self.port}"


def origin_of(url: str) -> Origin:
    """Return the origin of an absolute URL.

    Raises:
        ImageError: it is not an HTTP URL.
    """
    try:
        parts = urlsplit(url)
        port = parts.port
    except ValueError:
        parts, port = SplitResult("", "", "", "", ""), None
    if parts.scheme not in ("https", "http") or not parts.hostname:
        raise ImageError(f"{quoted(url)} is not an HTTP URL")
    return Origin(parts.scheme, parts.hostname, port or (443 if parts.scheme == "https" else 80))


@contextmanager
def naming(host: str) -> Iterator[None]:
    """Turn the failures of HTTP with a host into errors that name the host.

    Raises:
        UnreachableError: another attempt may succeed.
        ImageError: another attempt would fail, too.
    """
    try:
        yield
    except (HTTPError, HTTPException, OSError, ValueError) as error:
        failure = explain(error, host)
        raise _KINDS.get(failure.kind, UnreachableError)(failure.text) from error
