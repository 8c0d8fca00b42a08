"""The client of one repository of a registry: requests with authorization and retries, and messages for failures."""

from __future__ import annotations

import json
from contextlib import ExitStack, suppress
from typing import TYPE_CHECKING
from urllib.parse import urljoin

from decoder import limits
from decoder.errors import ImageError, quoted
from decoder.registry.auth import Authorization
from decoder.registry.certificates import tls_context
from decoder.registry.hosts import Origin, RefusedError, UnreachableError, origin_of
from decoder.registry.http import Response, Sending, Web
from decoder.registry.retries import is_busy, with_retries

if TYPE_CHECKING:
    from collections.abc import Mapping

    from decoder.registry.login import Logins
    from decoder.registry.reference import Reference

_REDIRECTIONS = (301, 302, 303, 307, 308)


class RegistryClient:
    """A client for one repository of a registry, for several threads.

    It uses TLS. If the registry does not, it uses plain HTTP, but only with a registry on this machine or without
    `tls_verify`.

    Args:
        reference: the registry and the repository.
        tls_verify: whether TLS and a valid certificate are required.
        scopes: the scopes of requested tokens, such as `repository:NAME:pull`.
        logins: the logins for registries.

    Raises:
        ImageError: a certificate that is stored for the registry cannot be used.
    """

    def __init__(self, reference: Reference, tls_verify: bool, scopes: list[str], logins: Logins) -> None:
        self.reference = reference
        self._tls_verify = tls_verify
        self._web = Web(tls_context(reference.api_host, tls_verify))
        self._origin = origin_of(f"https://{reference.api_host}")
        self._authorization = Authorization(self._web, reference, scopes, self.check, logins)

    def __enter__(self) -> RegistryClient:
        """Find out whether the registry uses TLS or plain HTTP, and which authorization it wants.

        Raises:
            ImageError: the registry cannot be reached, or is not a registry.
        """
        with ExitStack() as stack:
            stack.callback(self.__exit__)
            response = stack.enter_context(self._ping())
            if response.status == 401:
                self._authorization.answer(_challenges(response), "")
            elif response.status != 200:
                raise self.failure(response, "it is not a registry, or not available")
            response.close()
            stack.pop_all()
        return self

    def __exit__(self, *_: object) -> None:
        self._web.close()

    def check(self, origin: Origin) -> None:
        """Check that requests to this host are allowed.

        Raises:
            ImageError: it uses plain HTTP, which is not allowed.
        """
        if origin.scheme == "https" or not self._tls_verify or (origin.is_loopback and self._origin.is_loopback):
            return
        raise ImageError(f"{self.reference.host} refers to {origin} without TLS, which only --tls-verify=false allows")

    def url(self, path: str) -> str:
        """Return the URL of a path below the repository."""
        return f"{self._root}{self.reference.name}/{path}"

    def send(
        self,
        method: str,
        url: str,
        headers: Mapping[str, str] | None = None,
        body: bytes | None = None,
        seconds: float = limits.REGISTRY_IDLE_SECONDS,
    ) -> Response:
        """Send a request that may be repeated, and follow redirects.

        Args:
            method: the HTTP method.
            url: the result of `url`, or a location from the registry.
            headers: headers besides those that HTTP requires.
            body: the body, or None.
            seconds: how long the head of the reply may take.

        Raises:
            ImageError: no reply was received.
        """
        return with_retries(lambda: self._send_authorized(method, url, headers or {}, body, seconds))

    def begin(self, method: str, url: str, headers: Mapping[str, str], size: int) -> Sending:
        """Begin a request with a body of `size` bytes, which the caller sends.

        Raises:
            ImageError: the host cannot be reached.
        """
        self.check(origin_of(url))
        return self._web.begin(method, url, {**headers, **self._secret(url)[0]}, size)

    def drop(self, url: str) -> None:
        """Cancel an upload at the registry; it expires there if this fails."""
        with suppress(ImageError):
            self._send_authorized("DELETE", url, {}, None, limits.REGISTRY_CONNECT_SECONDS).close()

    def location(self, response: Response, url: str) -> str:
        """Return the URL in a reply's Location.

        Args:
            response: the reply.
            url: the URL of the request.

        Raises:
            ImageError: the reply has no usable Location, or requests to it are not allowed.
        """
        given = response.headers.get("Location", "")
        try:
            target = urljoin(url, given)
        except ValueError:
            given = target = ""
        if not given or not target.isascii() or any(sign <= " " for sign in target):
            raise ImageError(f"{response.host} gives no usable Location (HTTP {response.status})")
        self.check(origin_of(target))
        return target

    def failure(self, response: Response, what: str) -> ImageError:
        """Return an error with the registry's own message.

        Args:
            response: the reply, whose body has not been read yet.
            what: the failure in words, unless the status says it.
        """
        where = f"{self.reference.host}/{self.reference.name}"
        if response.status == 401:
            what = self._authorization.refusal()
        elif response.status == 403:
            what = "access is denied"
        elif response.status == 429:
            what = "too many requests"
        return ImageError(f"{where}: {what} (HTTP {response.status}{_said(response)})")

    @property
    def _root(self) -> str:
        return f"{self._origin.scheme}://{self.reference.api_host}/v2/"

    def _ping(self) -> Response:
        """Request the API's version over TLS, and over plain HTTP if TLS is not required and fails."""
        plain = origin_of(f"http://{self.reference.api_host}")
        if self._tls_verify and not plain.is_loopback:
            return with_retries(lambda: self._web.request("GET", self._root, {}))
        try:
            response = self._web.request("GET", self._root, {})
        except (UnreachableError, RefusedError):
            self._origin = plain
            return with_retries(lambda: self._web.request("GET", self._root, {}))
        if not is_busy(response):
            return response
        response.close()
        return with_retries(lambda: self._web.request("GET", self._root, {}))

    def _secret(self, url: str) -> tuple[dict[str, str], str]:
        """Return the Authorization header for the registry itself, and none for other hosts."""
        value = self._authorization.header if origin_of(url) == self._origin else ""
        return {"Authorization": value} if value else {}, value

    def _send_authorized(
        self, method: str, url: str, headers: Mapping[str, str], body: bytes | None, seconds: float
    ) -> Response:
        response, secret = self._follow(method, url, headers, body, seconds)
        challenges = _challenges(response)
        if response.status == 401 and challenges and self._authorization.answer(challenges, secret):
            response.close()
            response, _ = self._follow(method, url, headers, body, seconds)
        return response

    def _follow(
        self, method: str, url: str, headers: Mapping[str, str], body: bytes | None, seconds: float
    ) -> tuple[Response, str]:
        """Send a request, and follow redirects of GET and HEAD; also return the Authorization that was sent.

        Challenges of other hosts are ignored.
        """
        for _ in range(limits.REGISTRY_REDIRECTS + 1):
            self.check(origin_of(url))
            header, secret = self._secret(url)
            response = self._web.request(method, url, {**headers, **header}, body, seconds)
            if response.status not in _REDIRECTIONS or method not in ("GET", "HEAD"):
                if origin_of(url) != self._origin:
                    response.headers.discard("WWW-Authenticate")
                return response, secret
            with response:
                url = self.location(response, url)
        raise ImageError(f"{self.reference.host} redirects more than {limits.REGISTRY_REDIRECTS} times")


def _challenges(response: Response) -> list[str]:
    return response.headers.getlist("WWW-Authenticate")


def _said(response: Response) -> str:
    """Return the registry's own message (distribution-spec, Error Codes)."""
    try:
        error = json.loads(response.read(limits.REGISTRY_ERROR_BYTES))["errors"][0]
        return f", {quoted(error['code'])[1:-1]}: {quoted(error['message'])[1:-1]}"
    except (ImageError, ValueError, LookupError, TypeError, RecursionError):
        return ""
