"""Addresses of key services: beyond this machine they need TLS, because keys and tokens come from there."""

from __future__ import annotations

from urllib.parse import SplitResult, urlsplit

from decoder.errors import UsageError, quoted
from decoder.node.network import is_loopback


def base_url(text: str, what: str) -> str:
    """Check the address of a server, and return it without a slash at its end.

    Args:
        text: `https://HOST[:PORT][/PATH]`, or with `http` on a loopback address.
        what: names it in messages.

    Raises:
        UsageError: it is something else.
    """
    url = split_url(text, what)
    if not text.isascii() or not text.isprintable() or " " in text:
        raise UsageError(f"{what} holds characters that no URL has")
    if url.scheme == "http" and not is_loopback(url.hostname or ""):
        raise UsageError(f"{what} {quoted(text)} is not https, which it must be beyond this machine")
    return text.rstrip("/")


def split_url(text: str, what: str) -> SplitResult:
    """Split the address of a server, `http://` or `https://` with a host and perhaps a port and a path.

    Args:
        text: the address.
        what: names it in messages.

    Raises:
        UsageError: it is something else.
    """
    try:
        url = urlsplit(text)
        host, _ = url.hostname or "", url.port
    except ValueError:
        host = ""
    if not host or url.scheme not in ("http", "https") or "@" in url.netloc or url.query or url.fragment:
        raise UsageError(f"{what} is not https://HOST:PORT")  # it may hold a password
    return url
