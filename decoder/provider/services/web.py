"""HTTP for the SDKs of key services: a session of requests with bounds on time and size, and without redirects.

The providers that need this module import it after their SDK.
"""

from __future__ import annotations

import os
from time import monotonic, sleep
from typing import TYPE_CHECKING, Any, TypeVar
from urllib.parse import urlsplit

import requests
import urllib3
from requests.adapters import HTTPAdapter

from decoder import limits
from decoder.errors import quoted
from decoder.node import network
from decoder.provider.deadline import within
from decoder.provider.errors import ProviderError

if TYPE_CHECKING:
    from collections.abc import Callable

_Result = TypeVar("_Result")


class Web:
    """Connections to a service that are kept between operations, for several threads.

    Args:
        ca_file: the CA certificates to trust instead of the system's, or "".
        patient: whether to try again when the service refuses or drops a connection, as during a restart.
        final: byte strings; a reply that contains one of them is final, even if its status asks to try again.
        http_by_proxy: whether plain HTTP may go through a proxy of the environment, which can read it.
    """

    def __init__(
        self, ca_file: str, patient: bool = False, final: tuple[bytes, ...] = (), http_by_proxy: bool = False
    ) -> None:
        self.ca_file = ca_file
        self.patient = patient
        self.final = final
        self.http_by_proxy = http_by_proxy
        self.adapter = HTTPAdapter(pool_maxsize=limits.PROVIDER_SERVER_THREADS)

    def within(self, seconds: float, work: Callable[[Session], _Result]) -> _Result:
        """Run work within one time limit for all its requests, retries and logins.

        Args:
            seconds: how long it may take.
            work: is called with a session for its requests.

        Raises:
            ProviderError: the work did not end in time.
            BaseException: the exception of the work.
        """
        session = Session(self, monotonic() + seconds)
        return within(seconds, lambda: work(session))


class Session(requests.Session):
    """The requests of one operation. Failures are ProviderErrors whose text contains no data that was sent.

    Redirects are not followed, because SDKs would send their token along. While the service is busy (or unreachable, if
    the Web is patient), a request is repeated with random pauses until the time is over. A reply may have at most
    PROVIDER_MESSAGE_BYTES.

    Args:
        web: the connections.
        deadline: the end of the operation's time, by time.monotonic().

    Attributes:
        failure: the reason why the last request failed, for SDKs that drop it; "" if it succeeded.
    """

    def __init__(self, web: Web, deadline: float) -> None:
        super().__init__()
        for scheme in ("https://", "http://"):
            self.mount(scheme, web.adapter)
        self.verify = web.ca_file or True
        self.auth = lambda request: request  # without this, a password in ~/.netrc would replace the SDK's token
        self.failure = ""
        self._web = web
        self._deadline = deadline

    def close(self) -> None:
        """Leave the connections open: they belong to the Web."""

    def merge_environment_settings(self, url: Any, proxies: Any, stream: Any, verify: Any, cert: Any) -> Any:
        """Keep plain HTTP away from proxies, which could read it, and prefer our CA file to the environment's."""
        verify = self.verify if verify is None else verify
        settings = super().merge_environment_settings(url, proxies, stream, verify, cert)
        if urlsplit(url).scheme == "http" and not self._web.http_by_proxy:
            settings["proxies"] = {}
        return settings

    def send(self, request: requests.PreparedRequest, **kwargs: Any) -> requests.Response:
        """Send a request; repeat while the service is busy or cannot be reached.

        Raises:
            ProviderError: the request cannot be sent, its reply cannot be read or is too long, or the service stays
                busy.
        """
        try:
            return self._send_until_taken(request, **kwargs)
        except ProviderError as error:
            self.failure = str(error)
            raise

    def _send_until_taken(self, request: requests.PreparedRequest, **kwargs: Any) -> requests.Response:
        host = urlsplit(request.url or "").netloc
        is_patient = self._web.patient and not _is_probe(kwargs.get("timeout"))
        pauses = network.pauses(limits.PROVIDER_FIRST_PAUSE_SECONDS, limits.PROVIDER_LONGEST_PAUSE_SECONDS)
        while True:
            pause, asked = next(pauses), 0.0
            try:
                response = self._send_once(request, host, **kwargs)
                if response.status_code not in network.BUSY_STATUSES or self._is_final(response):
                    return response
                asked = network.retry_after(response.headers.get("Retry-After"))
                failure = ProviderError(f"{host} is too busy (HTTP {response.status_code})")
            except _PassingError as error:
                if not is_patient:
                    raise
                failure = error
            if max(pause, asked) + limits.RETRY_LEAST_SECONDS >= self._remaining():
                raise failure
            sleep(max(pause, asked))

    def _is_final(self, response: requests.Response) -> bool:
        return any(text in response.content for text in self._web.final)

    def _send_once(self, request: requests.PreparedRequest, host: str, **kwargs: Any) -> requests.Response:
        remaining = self._remaining()
        if remaining <= 0:
            raise ProviderError(f"{host} did not answer in time")
        kwargs |= {"stream": True, "allow_redirects": False, "timeout": _timeouts(kwargs.get("timeout"), remaining)}
        try:
            response = super().send(request, **kwargs)
            # requests.Response has no other way to take a body that was read already.
            response._content = self._read(response, host)  # noqa: SLF001
            response._content_consumed = True  # noqa: SLF001
        except (requests.RequestException, urllib3.exceptions.HTTPError, OSError) as error:
            raise _translated(error, host, kwargs.get("verify")) from error
        if response.is_redirect:
            other = urlsplit(response.headers["Location"]).netloc or host
            raise ProviderError(f"{host} redirects to {quoted(other)}, which is not followed")
        return response

    def _read(self, response: requests.Response, host: str) -> bytes:
        """Read a body in pieces, so that the time limit also ends a slow one."""
        body = b""
        while chunk := response.raw.read1(limits.READ_BYTES, decode_content=True):
            body += chunk
            if len(body) > limits.PROVIDER_MESSAGE_BYTES:
                response.close()
                raise ProviderError(f"the reply of {host} is longer than {limits.PROVIDER_MESSAGE_BYTES} bytes")
            if self._remaining() <= 0:
                response.close()
                raise ProviderError(f"{host} did not answer in time")
        return body

    def _remaining(self) -> float:
        return self._deadline - monotonic()


def _is_probe(asked: object) -> bool:
    """Check whether an SDK only probes a server, which its short timeout shows."""
    return asked is not None and _seconds(asked)[0] < limits.HTTP_CONNECT_SECONDS


class _PassingError(ProviderError):
    """The next attempt may succeed."""


def _translated(error: Exception, host: str, verify: object) -> ProviderError:
    if isinstance(verify, str) and not os.path.exists(verify):
        return ProviderError(f"the file {quoted(verify)} with the CA certificates for {host} does not exist")
    failure = network.explain(error, host)
    return (_PassingError if failure.may_pass and failure.kind != "late" else ProviderError)(failure.text)


def _timeouts(asked: object, remaining: float) -> tuple[float, float]:
    """Return the time limits for connecting and reading: those that the SDK asks for, but not beyond our own."""
    connect, read = _seconds(asked)
    return min(limits.HTTP_CONNECT_SECONDS, remaining, connect), min(remaining, read)


def _seconds(asked: object) -> tuple[float, float]:
    connect, read = asked if isinstance(asked, tuple) else (asked, asked)
    return tuple(float(each) if isinstance(each, int | float) else float("inf") for each in (connect, read))  # type: ignore[return-value]
