"""Hosts that speak HTTP: whom a URL names, and what goes wrong with them."""

from __future__ import annotations

import http.client
import ssl
from collections.abc import Iterator
from contextlib import contextmanager
from socket import gaierror
from typing import NamedTuple
from urllib.parse import SplitResult, urlsplit

from decoder.errors import ImageError, quoted
from decoder.node.network import is_loopback


class UnreachableError(ImageError):
    """A conversation with a host broke off; the next one may not."""


class NotTlsError(UnreachableError):
    """A host does not speak TLS."""


class RefusedError(ImageError):
    """Nobody listens at a host's port."""


class Origin(NamedTuple):
    """Whom a URL names (RFC 6454): what is secret to one of them is not shown to another."""

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
    """Take the origin from an absolute URL.

    Raises:
        ImageError: it is no HTTP URL.
    """
    try:
        parts = urlsplit(url)
        port = parts.port
    except ValueError:
        parts, port = SplitResult("", "", "", "", ""), None
    if parts.scheme not in ("https", "http") or not parts.hostname:
        raise ImageError(f"{quoted(url)} is no URL of HTTP")
    return Origin(parts.scheme, parts.hostname, port or (443 if parts.scheme == "https" else 80))


@contextmanager
def naming(host: str) -> Iterator[None]:
    """Turn what goes wrong with a host into errors that name it.

    Raises:
        UnreachableError: it may go well the next time.
        ImageError: it will not.
    """
    try:
        yield
    except ssl.SSLCertVerificationError as error:
        raise ImageError(f"the certificate of {host} is not accepted: {error.verify_message}") from None
    except (ssl.SSLError, ConnectionResetError, http.client.RemoteDisconnected) as error:
        raise _broken_off(error, host) from None
    except TimeoutError:
        raise UnreachableError(f"{host} did not answer in time") from None
    except gaierror as error:
        raise ImageError(f"{host} cannot be found: {error.strerror}") from None
    except ConnectionRefusedError as error:
        raise RefusedError(f"{host} cannot be reached: {error.strerror}") from None
    except OSError as error:
        raise UnreachableError(f"{host} cannot be reached: {error.strerror or error}") from None
    except (http.client.HTTPException, ValueError) as error:
        raise UnreachableError(f"{host} does not speak HTTP: {type(error).__name__}") from None


def _broken_off(error: Exception, host: str) -> UnreachableError:
    if isinstance(error, ssl.SSLError) and not isinstance(error, ssl.SSLEOFError):
        return NotTlsError(f"there is no TLS connection with {host}: {error.reason or error}")
    return UnreachableError(f"{host} broke the connection off")
