"""Key Vault's wrapKey and unwrapKey through the Azure SDK: authentication, one request, and what its errors mean."""

from __future__ import annotations

import logging
import re
from typing import NamedTuple

from azure.core.exceptions import AzureError, ClientAuthenticationError, DecodeError
from azure.core.pipeline.transport import RequestsTransport
from azure.core.rest import HttpRequest, HttpResponse
from azure.identity import DefaultAzureCredential
from azure.keyvault.keys import KeyClient

from decoder.errors import quoted
from decoder.formats import wire
from decoder.provider.errors import ProviderError
from decoder.provider.services.web import Session, last_failure, within_limit

# What azure-identity would try for people at their desks.
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
    """What a vault answers: which key it used, and the wrapped or unwrapped key."""

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
        for name in ("azure", "msal"):  # the SDK warns on standard error of what is raised as well
            logging.getLogger(name).addHandler(logging.NullHandler())
        # The session bounds and repeats requests; closing a client must not close it.
        self._transport = RequestsTransport(
            # Managed identities are asked by plain HTTP, through whatever proxy the machine has for it.
            session=Session(ca_file, http_by_proxy=True),
            session_owner=False,
            connection_verify=ca_file or True,
        )
        excluded = {f"exclude_{name}_credential": True for name in _DEVELOPERS}
        self._credential = DefaultAzureCredential(transport=self._transport, **excluded)

    def ask(self, authority: str, path: str, algorithm: str, value: bytes) -> Reply:
        """Have a vault wrap or unwrap a key.

        Args:
            authority: its host, with a port if it has one.
            path: `keys/NAME/VERSION/wrapkey` or `…/unwrapkey`; the version may be empty.
            algorithm: a name of JWA (RFC 7518 §4).
            value: the key, or the wrapped key.

        Raises:
            ProviderError: the vault did not do it.
        """
        try:
            response = within_limit(lambda: self._send(authority, path, algorithm, value))
        except (DecodeError, RecursionError):  # the SDK parses a reply as it comes
            raise ProviderError(f"the reply of {authority} cannot be understood") from None
        except AzureError as error:
            raise ProviderError(f"{authority} cannot be asked ({type(error).__name__})") from None
        except ValueError:
            # The SDK checks that the token which a vault asks for is one for vaults like it.
            raise ProviderError(f"{authority} asks for a token in a way that is not accepted") from None
        if response.status_code != 200:
            raise ProviderError(f"{authority} answers {_refusal(response)}")
        try:
            reply = wire.parse_object(response.content)
            key = wire.decode_base64url(wire.text_value(reply.get("value")))
            return Reply(wire.text_value(reply.get("kid")), key)
        except ValueError:
            raise ProviderError(f"the reply of {authority} cannot be understood") from None

    def _send(self, authority: str, path: str, algorithm: str, value: bytes) -> HttpResponse:
        """Send one request; CryptographyClient would fetch the key first, and needs a right to it."""
        text = wire.encode_base64(value).rstrip("=").replace("+", "-").replace("/", "_")
        client = KeyClient(f"https://{authority}", self._credential, transport=self._transport, retry_total=0)
        request = HttpRequest("POST", path, json={"alg": algorithm, "value": text})
        try:
            return client.send_request(request)
        except ClientAuthenticationError as error:
            # Its text is that of several services; what they may quote is not for a message.
            codes = sorted(set(_ENTRA_CODE.findall(str(error))))
            reason = ", ".join(codes[:4]) or last_failure() or "none is set up"
            raise ProviderError(f"no Azure credential gives a token: {reason}") from None


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
