"""A key broker (KBS) over HTTPS: its requests, and what its errors mean (docs/formats.md §8)."""

from __future__ import annotations

import json
import re
from collections.abc import Mapping, Sequence
from typing import TYPE_CHECKING

from decoder.errors import quoted
from decoder.formats import wire
from decoder.provider.errors import ProviderError

if TYPE_CHECKING:
    import requests

    from decoder.keywrap.kid import ResourceId
    from decoder.provider.services.web import Session

_PREFIX = "/kbs/v0/"
_COOKIE = "kbs-session-id"
_ERROR_TYPE = re.compile(r"https://github\.com/confidential-containers/kbs/errors/([A-Za-z]{1,64})", re.ASCII)
_OF_THE_TOKEN = ("TokenNotFound", "TokenVerifierError", "AttestationError")
_OF_THE_ADMIN = ("AdminAuth", "AdminAuthAccess", "AdminAuthInitialization")
# Trustee's answer is the same for a wrong key, a wrong claim and a configuration that denies all (DenyAll).
_ADMIN = (
    "it does not accept the administrator's token. Compare with the [admin] section of its configuration: the key that "
    "signs (kbs-auth-key), and the claims iss (docker-compose expects --kbs-claim iss=TrusteeInDocker), aud and role "
    "(--kbs-claim NAME=VALUE); or it denies all administration (DenyAll)"
)
_POLICY = "its resource policy cannot be evaluated: correct the policy"
_MEANINGS = {
    "AdminAuth": _ADMIN,
    "AdminAuthAccess": _ADMIN,
    "AdminAuthInitialization": _ADMIN,
    "AttestationError": "it does not accept this attestation: see the broker's log",
    "InvalidRequestPath": "it has no such path: check its URL",
    "JweError": "it cannot encrypt to this TEE key: use an RSA, P-256 or P-521 key",
    "ParsePolicyError": _POLICY,
    "PluginInternalError": "it does not have this resource, or cannot read or write it: register the key",
    "PluginNotFound": "it has no such plugin: compare the kid with its configuration",
    "PolicyDeny": "its resource policy denies this resource to this attestation: change one of them",
    "PolicyEngine": _POLICY,
    "PolicyEngineError": _POLICY,
    "SerdeError": "it does not understand the request: it may speak another version of the protocol",
    "TokenNotFound": "it requires an attestation token, or a session that has not ended",
    "TokenVerifierError": "it does not accept the attestation token, which may have expired: get a new one",
}


class RefusedError(ProviderError):
    """A broker answered with an error.

    Args:
        text: its message, and what to do.
        status: the HTTP status.
        variant: the last part of the error's `type`, or "" if it has none.

    Attributes:
        is_of_the_admin: other credentials of an administrator might help.
        is_of_the_token: another attestation token might help.
        is_denied: the resource may exist, but is denied to us.
    """

    def __init__(self, text: str, status: int, variant: str) -> None:
        super().__init__(text)
        self.is_of_the_admin = variant in _OF_THE_ADMIN
        # An answer without a type comes from something in front of the broker.
        self.is_of_the_token = variant in _OF_THE_TOKEN or (not variant and status == 401)
        self.is_denied = self.is_of_the_token or variant == "PolicyDeny"


class Conversation:
    """Requests to a broker that share its cookie.

    Args:
        url: the URL of the broker, as `base_url` returns it.
        session: sends the requests, within its time limit.
    """

    def __init__(self, url: str, session: Session) -> None:
        self._url = url
        self._session = session

    def cookie(self) -> str:
        """Return the broker's session, for `get` in a later conversation; "" if there is none."""
        return str(self._session.cookies.get(_COOKIE) or "")

    def get(self, resource: ResourceId, token: str = "", cookie: str = "") -> bytes:
        """Fetch a resource as the broker encrypted it.

        Args:
            resource: the id of the resource.
            token: the token of an attestation; without one, the session identifies the client.
            cookie: the session of an earlier conversation, or "".

        Raises:
            RefusedError: the broker answered with an error.
            ProviderError: the broker cannot be reached.
        """
        headers = {"Authorization": f"Bearer {token}"} if token else {}
        if cookie and not self.cookie():
            headers["Cookie"] = f"{_COOKIE}={cookie}"
        return self._send("GET", _path(resource), headers, secrets=(token, cookie))

    def upload(self, resource: ResourceId, data: bytes, token: str) -> None:
        """Store a resource.

        Args:
            resource: the id of the resource.
            data: its content.
            token: the token of an administrator, or "".

        Raises:
            RefusedError: the broker answered with an error.
            ProviderError: the broker cannot be reached.
        """
        headers = {"Content-Type": "application/octet-stream"}
        if token:
            headers["Authorization"] = f"Bearer {token}"
        self._send("POST", _path(resource), headers, data, (token, wire.encode_base64(data).rstrip("="), data.hex()))

    def post(self, name: str, members: Mapping[str, object]) -> dict[str, object]:
        """Send one step of the handshake.

        Args:
            name: `auth` or `attest`.
            members: the members of the request.

        Raises:
            RefusedError: the broker answered with an error.
            ProviderError: the broker cannot be reached, or its reply is not a JSON object.
        """
        reply = self._send("POST", name, {"Content-Type": "application/json"}, json.dumps(members).encode())
        try:
            return wire.parse_object(reply)
        except ValueError as error:
            raise ProviderError(f"its reply to {name} is malformed: {error}") from error

    def _send(
        self, method: str, path: str, headers: Mapping[str, str], data: bytes = b"", secrets: Sequence[str] = ()
    ) -> bytes:
        """Send a request, and return the body of the reply; an error's detail is dropped if it contains a secret."""
        url = f"{self._url}{_PREFIX}{path}"
        response = self._session.request(method, url, headers=dict(headers), data=data)
        if not 200 <= response.status_code < 300:
            raise _refusal(response, [secret for secret in secrets if secret])
        return response.content


def _path(resource: ResourceId) -> str:
    query = f"?{resource.query}" if resource.query else ""
    return f"{resource.plugin}/{resource.path}{query}"


def _refusal(response: requests.Response, secrets: Sequence[str]) -> RefusedError:
    """Parse `{"type","detail"}`; nearly all errors have the status 401, so only the type distinguishes them."""
    variant = detail = ""
    try:
        members = wire.parse_object(response.content)
        detail = wire.text_value(members.get("detail"))
        if match := _ERROR_TYPE.fullmatch(wire.text_value(members.get("type"))):
            variant = match[1]
    except ValueError:
        detail = ""
    if any(secret in detail for secret in secrets):
        detail = ""
    said = f"it answers {variant or f'HTTP {response.status_code}'}" + (f" ({quoted(detail)})" if detail else "")
    meaning = _MEANINGS.get(variant, "")
    return RefusedError(f"{said}: {meaning}" if meaning else said, response.status_code, variant)
