"""Authorization at a registry: a password, or a token that another service issues for it.

RFC 7617 (Basic), RFC 6750 (Bearer), and distribution's token and OAuth 2 specifications for requesting a token.
"""

from __future__ import annotations

import json
import re
from base64 import b64encode
from collections.abc import Callable
from threading import Lock
from time import monotonic
from typing import TYPE_CHECKING, NamedTuple
from urllib.parse import urlencode, urlsplit

from decoder import limits
from decoder.errors import ImageError, quoted
from decoder.registry.hosts import Origin, origin_of
from decoder.registry.retries import is_busy, with_retries

if TYPE_CHECKING:
    from decoder.registry.http import Web
    from decoder.registry.login import Login, Logins
    from decoder.registry.reference import Reference

# A parameter with its value, quoted or not; or else a word, which is the scheme of the challenge that begins there.
_PART = re.compile(r'([\w-]+)\s*=\s*(?:"((?:[^"\\]|\\.)*)"|([^\s",]+))|([\w-]+)')
_SCHEMES = ("bearer", "basic")
_CLIENT = "ctd-decoder"
_EARLY = 0.8  # the share of a token's time after which a new one is requested


class Challenge(NamedTuple):
    """A challenge of a registry: the scheme in lower case, and its parameters (RFC 9110 §11.6.1)."""

    scheme: str
    parameters: dict[str, str]


def parse_challenges(headers: list[str]) -> list[Challenge]:
    """Return the challenges of a registry that have a known scheme.

    Args:
        headers: the values of all headers WWW-Authenticate.
    """
    challenges = []
    for header in headers:
        for name, inner, value, scheme in _PART.findall(header[: limits.REGISTRY_ERROR_BYTES]):
            if scheme:
                challenges.append(Challenge(scheme.lower(), {}))
            elif challenges:
                challenges[-1].parameters[name.lower()] = _unescaped(inner) or value
    return [challenge for challenge in challenges if challenge.scheme in _SCHEMES]


def _unescaped(text: str) -> str:
    return re.sub(r"\\(.)", r"\1", text)


class Authorization:
    """The Authorization header of requests to one registry; for several threads.

    Args:
        web: the connections for requesting tokens.
        reference: the registry, by its name in `docker login`, and the repository.
        scopes: the scopes of requested tokens.
        check: raises an ImageError for an origin to which secrets must not be sent.
        logins: the logins for registries.
    """

    def __init__(
        self, web: Web, reference: Reference, scopes: list[str], check: Callable[[Origin], None], logins: Logins
    ) -> None:
        self._web = web
        self._host = reference.host
        self._repository = reference.name
        self._logins = logins
        self._scopes = scopes
        self._check = check
        self._lock = Lock()
        self._header = ""
        self._challenge: Challenge | None = None
        self._renew_at = 0.0

    @property
    def header(self) -> str:
        """Return the header's value, with a valid token; "" if the registry has not asked for authorization.

        Raises:
            ImageError: no token is issued.
        """
        with self._lock:
            if self._challenge and monotonic() > self._renew_at:
                self._renew(self._challenge)
            return self._header

    def answer(self, headers: list[str], sent: str) -> bool:
        """Answer a challenge: get a token, or use a password.

        Args:
            headers: the values of all headers WWW-Authenticate in the response.
            sent: the Authorization of the request.

        Returns:
            Whether the request is worth repeating, because the Authorization is another one now.

        Raises:
            ImageError: no token is issued.
        """
        challenge = next(iter(parse_challenges(headers)), None)
        with self._lock:
            if challenge is None or self._header != sent:
                return self._header != sent  # another thread was faster
            if challenge.scheme == "bearer":
                self._renew(challenge)
                return True
            login = self._logins.find(self._host, self._repository)
            if not login or not login.user:
                return False
            self._header = _basic(login)
            return self._header != sent

    def refusal(self) -> str:
        """Return a message about the login that the registry has refused, or where none was found, and what to do.

        Raises:
            ImageError: a login cannot be read.
        """
        return self._logins.refusal(self._host, self._repository)

    def _renew(self, challenge: Challenge) -> None:
        token, seconds = self._ask(challenge)
        self._header = f"Bearer {token}"
        self._challenge = challenge
        self._renew_at = monotonic() + _EARLY * seconds

    def _ask(self, challenge: Challenge) -> tuple[str, float]:
        """Request a token; return it, and how many seconds it is valid."""
        realm = challenge.parameters.get("realm", "")
        self._check(origin_of(realm))
        known = challenge.parameters.get("scope", "").split()
        scopes = [*self._scopes, *(scope for scope in known if scope not in self._scopes)]
        service = challenge.parameters.get("service", "")
        login = self._logins.find(self._host, self._repository)
        if login and login.identity_token:
            reply = self._post(realm, service, scopes, login.identity_token)
        else:
            reply = self._get(realm, service, scopes, login)
        token = reply.get("token") or reply.get("access_token")
        if not isinstance(token, str) or not re.fullmatch(r"[\x21-\x7e]+", token):
            raise ImageError(f"{origin_of(realm)} issues no token for {self._host}")
        seconds = reply.get("expires_in")
        is_number = isinstance(seconds, int | float) and seconds > 0
        return token, float(seconds) if is_number else limits.REGISTRY_TOKEN_SECONDS  # type: ignore[arg-type]

    def _get(self, realm: str, service: str, scopes: list[str], login: Login | None) -> dict[str, object]:
        fields = [("service", service)] if service else []
        query = urlencode([*fields, *(("scope", scope) for scope in scopes)])
        url = f"{realm}{'&' if urlsplit(realm).query else '?'}{query}"
        return self._send("GET", url, {"Authorization": _basic(login)} if login and login.user else {}, None)

    def _post(self, realm: str, service: str, scopes: list[str], identity_token: str) -> dict[str, object]:
        fields = {"grant_type": "refresh_token", "service": service, "client_id": _CLIENT, "scope": " ".join(scopes)}
        body = urlencode({**fields, "refresh_token": identity_token}).encode()
        return self._send("POST", realm, {"Content-Type": "application/x-www-form-urlencoded"}, body)

    def _send(self, method: str, url: str, headers: dict[str, str], body: bytes | None) -> dict[str, object]:
        """Send a request to the token service. Redirects are not followed, because they could leak a password."""
        place = origin_of(url)
        with with_retries(lambda: self._web.request(method, url, headers, body)) as response:
            if response.status in (400, 401, 403):
                raise ImageError(f"{place} issues no token for {self._host} (HTTP {response.status}): {self.refusal()}")
            if response.status != 200:
                why = "is too busy to issue" if is_busy(response) else "does not issue"
                raise ImageError(f"{place} {why} a token for {self._host} (HTTP {response.status})")
            data = response.read(limits.REGISTRY_TOKEN_BYTES)
        try:
            value = json.loads(data)
        except (ValueError, RecursionError):
            value = None
        if not isinstance(value, dict):
            raise ImageError(f"the reply of {quoted(str(place))} is not a token for {self._host}")
        return value


def _basic(login: Login) -> str:
    return f"Basic {b64encode(f'{login.user}:{login.password}'.encode()).decode()}"
