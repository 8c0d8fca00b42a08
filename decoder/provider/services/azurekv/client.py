"""Key Vault's wrapKey and unwrapKey through the Azure SDK: authentication, one request, and its errors as messages."""

from __future__ import annotations

import logging
import re
import time
from typing import TYPE_CHECKING, Any, NamedTuple

from azure.core.exceptions import AzureError, ClientAuthenticationError, DecodeError
from azure.core.pipeline.transport import RequestsTransport
from azure.core.rest import HttpRequest, HttpResponse
from azure.identity import DefaultAzureCredential
from azure.keyvault.keys import KeyClient

from decoder import limits
from decoder.errors import quoted
from decoder.formats import wire
from decoder.provider.errors import ProviderError
from decoder.provider.services.web import Session, Web

if TYPE_CHECKING:
    from azure.core.credentials import AccessToken

# The interactive logins that azure-identity would try for people.
_DEVELOPERS = (
    "shared_token_cache",
    "visual_studio_code",
    "cli",
    "developer_cli",
    "powershell",
    "interactive_browser",
    "broker",
)
_ENTRA_CODE = re.compile(r"AADSTS[0-9]{1,9}", re.ASCII)
_CODE = re.compile(r"[A-Za-z0-9]{1,64}", re.ASCII)


class Reply(NamedTuple):
    """The answer of a vault: the key that it used, and the wrapped or unwrapped key."""

    key_id: str
    value: bytes

    def __repr__(self) -> str:
        return f"Reply({self.key_id!r}, …)"


class Vaults:
    """The vaults that the credentials of this process can reach.

    Args:
        ca_file: certificates to accept instead of the system's, or "".
    """

    def __init__(self, ca_file: str) -> None:
        for name in ("azure", "msal"):  # the SDK also logs to standard error the errors that it raises
            logging.getLogger(name).addHandler(logging.NullHandler())
        # Tokens of managed identities come over plain HTTP, through the machine's proxy if it has one.
        self._web = Web(ca_file, patient=True, http_by_proxy=True)
        self._tokens: dict[tuple[object, ...], AccessToken] = {}

    def ask(self, authority: str, path: str, algorithm: str, value: bytes, seconds: float) -> Reply:
        """Ask a vault to wrap or unwrap a key.

        Args:
            authority: the host of the vault, and the port if it is not 443.
            path: `keys/NAME/VERSION/wrapkey` or `…/unwrapkey`; the version may be empty.
            algorithm: a JWA name (RFC 7518 §4).
            value: the key, or the wrapped key.
            seconds: the time limit, including the requests for a token.

        Raises:
            ProviderError: no token was available, the vault refused, or its reply is malformed.
        """
        try:
            response = self._web.within(seconds, lambda session: self._send(session, authority, path, algorithm, value))
        except (DecodeError, RecursionError) as error:  # the SDK parses replies without a limit on their depth
            raise ProviderError(f"the reply of {authority} cannot be understood") from error
        except AzureError as error:
            raise ProviderError(f"the request to {authority} failed ({type(error).__name__})") from error
        except ValueError as error:
            # The SDK rejects a challenge that asks for a token of another domain.
            raise ProviderError(f"{authority} asks for a token in a way that is not accepted") from error
        if response.status_code != 200:
            raise ProviderError(f"{authority} answers {_refusal(response)}")
        try:
            reply = wire.parse_object(response.content)
            key = wire.decode_base64url(wire.text_value(reply.get("value")))
            return Reply(wire.text_value(reply.get("kid")), key)
        except ValueError as error:
            raise ProviderError(f"the reply of {authority} cannot be understood") from error

    def _send(self, session: Session, authority: str, path: str, algorithm: str, value: bytes) -> HttpResponse:
        """Send one request; CryptographyClient would fetch the key first, which needs another permission."""
        text = wire.encode_base64(value).rstrip("=").replace("+", "-").replace("/", "_")
        transport = RequestsTransport(session=session, session_owner=False, connection_verify=session.verify)
        credential = _Credential(transport, self._tokens)
        client = KeyClient(f"https://{authority}", credential, transport=transport, retry_total=0)
        request = HttpRequest("POST", path, json={"alg": algorithm, "value": text})
        try:
            return client.send_request(request)
        except ClientAuthenticationError as error:
            # Its text combines those of several services, which may quote secrets.
            codes = sorted(set(_ENTRA_CODE.findall(str(error))))
            reason = ", ".join(codes[: limits.LISTED_NAMES]) or session.failure or "none is configured"
            raise ProviderError(f"no Azure credential gives a token: {reason}") from error


class _Credential:
    """Tokens for the credentials of this process; credentials are only searched if no cached token is valid.

    Args:
        transport: sends the requests for tokens.
        tokens: the cache, which outlives this object.
    """

    def __init__(self, transport: RequestsTransport, tokens: dict[tuple[object, ...], AccessToken]) -> None:
        self._transport = transport
        self._tokens = tokens

    def get_token(self, *scopes: str, **options: Any) -> AccessToken:
        """Return a token; see `azure.core.credentials.TokenCredential`."""
        identity = (scopes, options.get("tenant_id"))
        known = self._tokens.get(identity)
        if known and known.expires_on - limits.AZURE_TOKEN_LEAST_SECONDS > time.time() and not options.get("claims"):
            return known
        excluded = {f"exclude_{name}_credential": True for name in _DEVELOPERS}
        found = DefaultAzureCredential(transport=self._transport, **excluded).get_token(*scopes, **options)
        self._tokens[identity] = found
        return found


def _refusal(response: HttpResponse) -> str:
    """Describe an error of the service by its codes and its message."""
    try:
        error = wire.object_value(wire.parse_object(response.content).get("error"))
        inner = wire.object_value(error.get("innererror"))
        codes = [item for item in (error.get("code"), inner.get("code")) if isinstance(item, str)]
        message = wire.text_value(error.get("message"))
    except ValueError:
        codes, message = [], ""
    shown = "/".join(item for item in codes if _CODE.fullmatch(item))
    return f"HTTP {response.status_code} {shown}".rstrip() + (f": {quoted(message)}" if message else "")
