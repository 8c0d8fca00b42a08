"""Addresses of key services. Beyond this machine they must use TLS, because keys and tokens come from there."""

from __future__ import annotations

from urllib.parse import SplitResult, urlsplit

from decoder.errors import UsageError, quoted
from decoder.node.network import is_loopback


def base_url(text: str, what: str) -> str:
    """Check the address of a server, and return it without a slash at its end.

    Args:
        text: `https://HOST[:PORT][/PATH]`, or with `http` on a loopback address.
        what: the name of the address in messages, such as `the option address`.

    Raises:
        UsageError: it is not such a URL.
    """
    url = split_url(text, what)
    if not text.isascii() or not text.isprintable() or " " in text:
        raise UsageError(f"{what} has characters that a URL cannot have")
    if url.scheme == "http" and not is_loopback(url.hostname or ""):
        raise UsageError(f"{what} {quoted(text)} must begin with https://, unless it is on this machine")
    return text.rstrip("/")


def split_url(text: str, what: str) -> SplitResult:
    """Split the address of a server, `http://` or `https://` with a host and perhaps a port and a path.

    Args:
        text: the address.
        what: the name of the address in messages.

    Raises:
        UsageError: it is not such a URL.
    """
    try:
        url = urlsplit(text)
        host, _ = url.hostname or "", url.port
    except ValueError:
        host = ""
    if not host or url.scheme not in ("http", "https") or "@" in url.netloc or url.query or url.fragment:
        raise UsageError(f"{what} is not https://HOST:PORT")  # not quoted, because it may hold a password
    return url
