"""A small Azure: a vault with RSA keys, the token service and a machine's identity, each under its own name.

Names lead here by a proxy, so that the SDK runs as it does elsewhere: with the addresses, certificates and
challenges that it expects.
"""

from __future__ import annotations

import json
import os
from collections.abc import Callable
from contextlib import ExitStack
from pathlib import Path
from types import TracebackType
from typing import Self
from urllib.parse import parse_qs, urlsplit

from cryptography.hazmat.primitives import hashes
from cryptography.hazmat.primitives.asymmetric import padding, rsa

from decoder.formats import wire
from tests.support.network.loopback import Answer, Asked, Authority, Loopback, Proxy, json_answer

VAULT = "layers.vault.azure.net"
ENTRA = "login.microsoftonline.com"
TENANT = "11111111-2222-3333-4444-555555555555"
CLIENT = "66666666-7777-8888-9999-000000000000"
SECRET = "client-secret-of-the-test"
VERSION, OLDER = "f" * 32, "0" * 32
_OAEP = padding.OAEP(padding.MGF1(hashes.SHA256()), hashes.SHA256(), None)


class Cloud:
    """The servers, the proxy to them, and what they know.

    Attributes:
        vault: the server of VAULT; its `answer` can be replaced.
        entra: the token service, likewise.
        machine: what answers plain HTTP, the service of managed identities among it.
        proxy: knows which hosts were asked for.
        environment: what makes a process use it all, without credentials.
        authority: signed the certificates.
        tokens: those that were issued.
        disabled: names of keys that may not be used.
        denied: operations that the client has no permission for.
    """

    def __init__(self, directory: Path) -> None:
        self.authority = Authority(directory)
        self.keys = {version: rsa.generate_private_key(65537, 2048) for version in (VERSION, OLDER)}
        self.tokens: set[str] = set()
        self.disabled: set[str] = set()
        self.denied: set[str] = set()
        self._directory = directory
        self._stack = ExitStack()
        self.vault = self._start(self.keys_service, VAULT)
        self.entra = self._start(self.token_service, ENTRA)
        self.machine = self._stack.enter_context(Loopback(lambda _: Answer(404)))
        routes = {f"{VAULT}:443": self.vault.port, f"{ENTRA}:443": self.entra.port}
        self.proxy = self._stack.enter_context(Proxy(routes))
        self.environment = {"HTTPS_PROXY": self.proxy.url, "HTTP_PROXY": self.machine.url}

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self._stack.close()

    def reset(self) -> None:
        """Forget what was asked, and whatever a test has changed."""
        self.vault.answer, self.entra.answer, self.machine.answer = (
            self.keys_service,
            self.token_service,
            lambda _: Answer(404),
        )
        for server in (self.vault, self.entra, self.machine):
            server.asked.clear()
        for names in (self.tokens, self.disabled, self.denied, self.proxy.hosts):
            names.clear()

    def keys_service(self, asked: Asked) -> Answer:
        """Answer as Key Vault: a challenge without a token, else wrapkey and unwrapkey."""
        if asked.headers.get("authorization", "").removeprefix("Bearer ") not in self.tokens:
            challenge = f'Bearer authorization="https://{ENTRA}/{TENANT}", resource="https://vault.azure.net"'
            return json_answer(_error("Unauthorized", "a token is needed"), 401, WWW_Authenticate=challenge)
        _, keys, name, version, operation = urlsplit(asked.path).path.split("/")
        if keys != "keys" or "api-version=" not in asked.path or asked.method != "POST":
            return json_answer(_error("BadParameter", "no such operation"), 400)
        if name in self.disabled:
            inner = {"innererror": {"code": "KeyDisabled"}}
            return json_answer(
                _error("Forbidden", f"Operation {operation} is not allowed on a disabled key.", **inner), 403
            )
        if operation in self.denied:
            message = f"The application 'appid={CLIENT}' does not have keys {operation} permission"
            return json_answer(_error("Forbidden", message, innererror={"code": "ForbiddenByPolicy"}), 403)
        if name != "layers" or (version or VERSION) not in self.keys:
            return json_answer(_error("KeyNotFound", f"A key with (name/id) {name} was not found"), 404)
        return self._use(json.loads(asked.body), version or VERSION, operation)

    def _use(self, body: dict[str, str], version: str, operation: str) -> Answer:
        assert body["alg"] == "RSA-OAEP-256"
        value = wire.decode_base64url(body["value"])
        key = self.keys[version]
        try:
            result = key.public_key().encrypt(value, _OAEP) if operation == "wrapkey" else key.decrypt(value, _OAEP)
        except ValueError:
            return json_answer(_error("BadParameter", "The parameter is incorrect."), 400)
        return json_answer({"kid": f"https://{VAULT}/keys/layers/{version}", "value": base64url(result)})

    def token_service(self, asked: Asked) -> Answer:
        """Answer as Entra ID: its metadata, and tokens for the client's secret or a workload's assertion."""
        if asked.path.endswith("/.well-known/openid-configuration"):
            base = f"https://{ENTRA}/{TENANT}"
            return json_answer(
                {
                    "issuer": f"{base}/v2.0",
                    "token_endpoint": f"{base}/oauth2/v2.0/token",
                    "authorization_endpoint": f"{base}/oauth2/v2.0/authorize",
                }
            )
        if "/discovery/instance" in asked.path:
            return json_answer({"tenant_discovery_endpoint": f"https://{ENTRA}/{TENANT}/v2.0", "metadata": []})
        form = {name: values[0] for name, values in parse_qs(asked.body.decode()).items()}
        assert form["scope"] == "https://vault.azure.net/.default"
        if form.get("client_secret") != SECRET and form.get("client_assertion") != "assertion-of-the-test":
            description = f"AADSTS7000215: Invalid client secret provided: {form.get('client_secret')}"
            return json_answer({"error": "invalid_client", "error_description": description}, 401)
        return json_answer({"token_type": "Bearer", "expires_in": 3600, "access_token": self.issue()})

    def issue(self) -> str:
        token = "token-of-the-test-" + os.urandom(8).hex()
        self.tokens.add(token)
        return token

    def _start(self, answer: Callable[[Asked], Answer | None], host: str) -> Loopback:
        return self._stack.enter_context(Loopback(answer, self.authority.server_context(host)))


def base64url(data: bytes) -> str:
    return wire.encode_base64(data).rstrip("=").replace("+", "-").replace("/", "_")


def _error(code: str, message: str, **more: object) -> dict[str, object]:
    return {"error": {"code": code, "message": message, **more}}
