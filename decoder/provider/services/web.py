"""HTTP for the SDKs of key services: requests' session with bounds on time and size, and without redirects.

Imported by the providers that need it, after their SDK was found to be there.
"""

from __future__ import annotations

import os
import random
import ssl
import threading
from collections.abc import Callable, Iterator
from time import monotonic, sleep
from typing import Any, TypeVar
from urllib.parse import urlsplit

import requests
import urllib3

from decoder import limits
from decoder.errors import quoted
from decoder.provider.deadline import within
from decoder.provider.errors import ProviderError

_Result = TypeVar("_Result")

_CONNECT_SECONDS = 10.0
_BUSY = (429, 503)
_FIRST_PAUSE_SECONDS = 0.25
_LONGEST_PAUSE_SECONDS = 4.0
_CHUNK_BYTES = 64 * limits.KIB

# When the operation that runs in this thread must have ended.
_operation = threading.local()


def within_limit(work: Callable[[], _Result], seconds: float | None = None) -> _Result:
    """Do something for so many seconds at most, all its requests, retries and logins together.

    Args:
        work: what to do, with a `Session`, whose reads end at the same time.
        seconds: how long it may take; PROVIDER_SECONDS without.

    Raises:
        ProviderError: it took longer.
        BaseException: what the work raised.
    """
    seconds = limits.PROVIDER_SECONDS if seconds is None else seconds
    deadline = monotonic() + seconds

    def run() -> _Result:
        _operation.deadline = deadline
        return work()

    return within(seconds, run)


class Session(requests.Session):
    """A session that an SDK is handed; its failures are ProviderErrors that say nothing of what was sent.

    It follows no redirect, for SDKs would send their token along; it repeats a request that the service
    was too busy for, after growing pauses, while time remains; a reply is at most PROVIDER_MESSAGE_BYTES.

    Args:
        ca_file: certificates to accept instead of the system's, or "".
        final: a reply with one of these in it is not waited for, whatever its status.
        http_by_proxy: send plain HTTP to a proxy of the environment, which then sees it.
    """

    def __init__(self, ca_file: str, final: tuple[bytes, ...] = (), http_by_proxy: bool = False) -> None:
        super().__init__()
        self.verify = ca_file or True
        self.auth = lambda request: request  # or else a password from ~/.netrc would replace the SDK's token
        self._final = final
        self._http_by_proxy = http_by_proxy

    def merge_environment_settings(self, url: Any, proxies: Any, stream: Any, verify: Any, cert: Any) -> Any:
        """Keep plain HTTP from proxies, which would see what is sent, and prefer our CA file to the environment's."""
        verify = self.verify if verify is None else verify
        settings = super().merge_environment_settings(url, proxies, stream, verify, cert)
        if urlsplit(url).scheme == "http" and not self._http_by_proxy:
            settings["proxies"] = {}
        return settings

    def send(self, request: requests.PreparedRequest, **kwargs: Any) -> requests.Response:
        """Send a request, again if the service is busy.

        Raises:
            ProviderError: it cannot be sent, its reply cannot be read or is too long, or the service stays busy.
        """
        try:
            return self._send_until_taken(request, **kwargs)
        except ProviderError as error:
            _operation.failure = str(error)
            raise

    def _send_until_taken(self, request: requests.PreparedRequest, **kwargs: Any) -> requests.Response:
        pauses = _pauses()
        while True:
            response = self._send_once(request, **kwargs)
            if response.status_code not in _BUSY or any(text in response.content for text in self._final):
                return response
            seconds = max(next(pauses), _asked_pause(response))
            if seconds >= _remaining():
                raise ProviderError(f"{_host(request)} is too busy (HTTP {response.status_code})")
            sleep(seconds)

    def _send_once(self, request: requests.PreparedRequest, **kwargs: Any) -> requests.Response:
        host = _host(request)
        remaining = _remaining()
        if remaining <= 0:
            raise ProviderError(f"{host} did not answer in time")
        kwargs |= {"stream": True, "allow_redirects": False, "timeout": _timeouts(kwargs.get("timeout"), remaining)}
        try:
            response = super().send(request, **kwargs)
            # requests.Response has no other way to take a body that was read already.
            response._content = _read(response, host)  # noqa: SLF001
            response._content_consumed = True  # noqa: SLF001
        except (requests.RequestException, urllib3.exceptions.HTTPError, OSError) as error:
            verify = kwargs.get("verify")
            gone = isinstance(verify, str) and not os.path.exists(verify)
            missing = f"there is no file {quoted(verify)} to check {host} by"
            raise ProviderError(missing if gone else _reason(error, host)) from None
        if response.is_redirect:
            other = urlsplit(response.headers["Location"]).netloc or host
            raise ProviderError(f"{host} redirects to {quoted(other)}, which is not followed")
        return response


def last_failure() -> str:
    """Tell why the last request of this operation failed on its way, for SDKs that lose it; "" if none did."""
    return str(getattr(_operation, "failure", ""))


def _host(request: requests.PreparedRequest) -> str:
    return urlsplit(request.url or "").netloc


def _pauses() -> Iterator[float]:
    longest = _FIRST_PAUSE_SECONDS
    while True:
        yield longest * random.uniform(0.5, 1)  # noqa: S311 - only to keep nodes from asking all at once
        longest = min(2 * longest, _LONGEST_PAUSE_SECONDS)


def _asked_pause(response: requests.Response) -> float:
    """Read Retry-After (RFC 9110 §10.2.3), which services give in seconds."""
    text = response.headers.get("Retry-After", "")
    return float(text) if text.isascii() and text.isdigit() and len(text) < 10 else 0.0


def _remaining() -> float:
    return float(getattr(_operation, "deadline", monotonic() + limits.PROVIDER_SECONDS)) - monotonic()


def _timeouts(asked: object, remaining: float) -> tuple[float, float]:
    """Bound the time to connect and to read; an SDK that asks for less, to see whether anybody is there, gets that."""
    connect, read = asked if isinstance(asked, tuple) else (asked, asked)
    return (
        min(_CONNECT_SECONDS, remaining, connect if isinstance(connect, int | float) else remaining),
        min(remaining, read if isinstance(read, int | float) else remaining),
    )


def _read(response: requests.Response, host: str) -> bytes:
    """Read a body as it comes, so that one which trickles in is noticed."""
    body = b""
    while chunk := response.raw.read1(_CHUNK_BYTES, decode_content=True):
        body += chunk
        if len(body) > limits.PROVIDER_MESSAGE_BYTES:
            response.close()
            raise ProviderError(f"the reply of {host} is longer than {limits.PROVIDER_MESSAGE_BYTES} bytes")
        if _remaining() <= 0:
            response.close()
            raise ProviderError(f"{host} did not answer in time")
    return body


def _reason(error: BaseException, host: str) -> str:
    """Find the cause in what was raised; the rest of its text may hold anything."""
    for cause in _causes(error):
        if isinstance(cause, ssl.SSLCertVerificationError):
            return f"the certificate of {host} is not accepted: {quoted(cause.verify_message)}"
        if isinstance(cause, ssl.SSLError):
            return f"there is no TLS connection with {host}: {quoted(cause.reason or type(cause).__name__)}"
        if isinstance(cause, TimeoutError | requests.Timeout | urllib3.exceptions.TimeoutError):
            return f"{host} did not answer in time"
        if isinstance(cause, OSError) and cause.strerror and not isinstance(cause, requests.RequestException):
            return f"{host} cannot be reached: {cause.strerror}"
    if isinstance(error, requests.exceptions.ProxyError):
        return f"{host} cannot be reached through the proxy"
    return f"there is no conversation with {host} ({type(error).__name__})"


def _causes(error: BaseException) -> Iterator[BaseException]:
    """Yield the exceptions behind one, the innermost first; urllib3 keeps some as arguments or `reason`."""
    found: list[BaseException] = []
    waiting = [error]
    while waiting and len(found) < 32:
        current = waiting.pop()
        if any(current is known for known in found):
            continue
        found.append(current)
        inner = [current.__cause__, current.__context__, getattr(current, "reason", None), *current.args]
        waiting += [item for item in inner if isinstance(item, BaseException)]
    return reversed(found)
