"""Google's side on the loopback interface: Cloud KMS's gRPC API over TLS, and a service account's token endpoint.

Google's library is imported when it is used: every process that runs tests imports this file, and one uses it.
"""

from __future__ import annotations

import json
import os
import threading
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from typing import TYPE_CHECKING, Any
from urllib.parse import parse_qs

import grpc
from cryptography.exceptions import InvalidTag
from cryptography.hazmat.primitives.ciphers.aead import AESGCM
from jwcrypto.common import JWException
from jwcrypto.jwk import JWK
from jwcrypto.jws import JWS

from decoder.provider.services.gcpkms import crc32c
from tests.support.network.certificates import issue, key_of

if TYPE_CHECKING:
    from google.cloud import kms_v1

ACCOUNT = "decoder@project-1.iam.gserviceaccount.com"
KEY = "projects/project-1/locations/global/keyRings/ring/cryptoKeys/key1"
OTHER_KEY = "projects/project-1/locations/global/keyRings/ring/cryptoKeys/key2"
NONCE_BYTES = 12


class Account:
    """A service account: its key file, and the endpoint that gives tokens for it."""

    def __init__(self, directory: Path) -> None:
        self.tokens: list[str] = []
        self.assertions: list[str] = []
        self.answer: Callable[[BaseHTTPRequestHandler], None] = self.give_token
        self.http = ThreadingHTTPServer(("127.0.0.1", 0), _handler(self))
        self._private = JWK.generate(
            kty="RSA", size=1024
        )  # Google's library checks it for each client: six times as quick
        self.file = directory / "adc.json"
        self.file.write_text(
            json.dumps(
                {
                    "type": "service_account",
                    "project_id": "project-1",
                    "private_key_id": "key-id-1",
                    "private_key": self._private.export_to_pem(private_key=True, password=None).decode(),
                    "client_email": ACCOUNT,
                    "token_uri": f"http://127.0.0.1:{self.http.server_port}/token",
                }
            )
        )

    def give_token(self, request: BaseHTTPRequestHandler) -> None:
        """Check the signed request (RFC 7523 §2.1) and give a token that ends in an hour."""
        form = parse_qs(request.rfile.read(int(request.headers["Content-Length"])).decode())
        assertion = form["assertion"][0]
        self.assertions.append(assertion)
        signed = JWS()
        try:
            signed.deserialize(assertion, self._private)
        except JWException:
            reply(request, 400, {"error": "invalid_grant", "error_description": "Invalid JWT Signature."})
            return
        claims = json.loads(signed.payload)
        assert form["grant_type"] == ["urn:ietf:params:oauth:grant-type:jwt-bearer"]
        assert claims["iss"] == ACCOUNT
        assert "https://www.googleapis.com/auth/cloudkms" in claims["scope"].split()
        self.tokens.append("token-" + os.urandom(32).hex())
        reply(request, 200, {"access_token": self.tokens[-1], "expires_in": 3600, "token_type": "Bearer"})


def reply(request: BaseHTTPRequestHandler, status: int, value: object) -> None:
    """Answer an HTTP request with JSON."""
    body = json.dumps(value).encode()
    request.send_response(status)
    request.send_header("Content-Type", "application/json")
    request.send_header("Content-Length", str(len(body)))
    request.end_headers()
    request.wfile.write(body)


def _handler(account: Account) -> type[BaseHTTPRequestHandler]:
    class Handler(BaseHTTPRequestHandler):
        def do_POST(self) -> None:
            account.answer(self)

        def log_message(self, *_: object) -> None:
            pass

    return Handler


class CloudKms:
    """Cloud KMS with two symmetric keys.

    Attributes:
        calls: the requests that came with a good token, as (method, message).
        before: run with each call's context; it may abort it.
        alter: run with each reply before it is sent.
    """

    def __init__(self, account: Account) -> None:
        self._account = account
        self._keys = {name: AESGCM(os.urandom(32)) for name in (KEY, OTHER_KEY)}
        self.calls: list[tuple[str, Any]] = []
        self.before: Callable[[grpc.ServicerContext], None] = lambda _: None
        self.alter: Callable[[Any], None] = lambda _: None

    def handler(self) -> grpc.GenericRpcHandler:
        """Make the gRPC service."""
        from google.cloud import kms_v1

        methods = {
            "Encrypt": grpc.unary_unary_rpc_method_handler(
                self._encrypt, kms_v1.EncryptRequest.deserialize, kms_v1.EncryptResponse.serialize
            ),
            "Decrypt": grpc.unary_unary_rpc_method_handler(
                self._decrypt, kms_v1.DecryptRequest.deserialize, kms_v1.DecryptResponse.serialize
            ),
        }
        return grpc.method_handlers_generic_handler("google.cloud.kms.v1.KeyManagementService", methods)

    def _encrypt(self, request: kms_v1.EncryptRequest, context: grpc.ServicerContext) -> kms_v1.EncryptResponse:
        key = self._admit("encrypt", request, context)
        if request.plaintext_crc32c is not None and request.plaintext_crc32c != crc32c(request.plaintext):
            context.abort(grpc.StatusCode.INVALID_ARGUMENT, "the checksum in field plaintext_crc32c did not match")
        from google.cloud import kms_v1

        nonce = os.urandom(NONCE_BYTES)
        ciphertext = nonce + key.encrypt(nonce, request.plaintext, request.additional_authenticated_data or None)
        response = kms_v1.EncryptResponse(
            name=f"{request.name}/cryptoKeyVersions/1",
            ciphertext=ciphertext,
            ciphertext_crc32c=crc32c(ciphertext),
            verified_plaintext_crc32c=request.plaintext_crc32c is not None,
        )
        self.alter(response)
        return response

    def _decrypt(self, request: kms_v1.DecryptRequest, context: grpc.ServicerContext) -> kms_v1.DecryptResponse:
        key = self._admit("decrypt", request, context)
        if request.ciphertext_crc32c is not None and request.ciphertext_crc32c != crc32c(request.ciphertext):
            context.abort(grpc.StatusCode.INVALID_ARGUMENT, "the checksum in field ciphertext_crc32c did not match")
        nonce, ciphertext = request.ciphertext[:NONCE_BYTES], request.ciphertext[NONCE_BYTES:]
        try:
            plaintext = key.decrypt(nonce, ciphertext, request.additional_authenticated_data or None)
        except InvalidTag:
            context.abort(
                grpc.StatusCode.INVALID_ARGUMENT,
                "Decryption failed: verify that 'name' refers to the correct CryptoKey.",
            )
        from google.cloud import kms_v1

        response = kms_v1.DecryptResponse(plaintext=plaintext, plaintext_crc32c=crc32c(plaintext), used_primary=True)
        self.alter(response)
        return response

    def _admit(self, method: str, request: Any, context: grpc.ServicerContext) -> AESGCM:
        headers = dict(context.invocation_metadata())
        token = str(headers.get("authorization", "")).removeprefix("Bearer ")
        if token not in self._account.tokens:
            context.abort(grpc.StatusCode.UNAUTHENTICATED, "Request had invalid authentication credentials.")
        self.calls.append((method, request))
        self.before(context)
        assert f"name={request.name}" in str(headers["x-goog-request-params"]).replace("%2F", "/")
        if request.name not in self._keys:
            context.abort(grpc.StatusCode.NOT_FOUND, f"CryptoKey {request.name} not found.")
        return self._keys[request.name]


class Google:
    """Both servers, running.

    Attributes:
        endpoint: where Cloud KMS listens.
        ca_file: the CA of its certificate.
    """

    def __init__(self, account: Account, kms: CloudKms, endpoint: str, ca_file: Path) -> None:
        self.account = account
        self.kms = kms
        self.endpoint = endpoint
        self.ca_file = ca_file

    def options(self, **more: object) -> dict[str, object]:
        """Give the options of a provider that uses these servers."""
        common = {"adc": str(self.account.file), "endpoint": self.endpoint, "ca-file": str(self.ca_file)}
        return {**common, **more}


@contextmanager
def running_google(directory: Path) -> Iterator[Google]:
    """Run both servers on free ports."""
    account = Account(directory)
    kms = CloudKms(account)
    certificate, key = make_certificate(directory, "localhost")
    server = grpc.server(ThreadPoolExecutor(8))
    server.add_generic_rpc_handlers((kms.handler(),))
    credentials = grpc.ssl_server_credentials([(key.read_bytes(), certificate.read_bytes())])
    port = server.add_secure_port("127.0.0.1:0", credentials)
    server.start()
    thread = threading.Thread(target=account.http.serve_forever, args=(0.05,))
    thread.start()
    try:
        yield Google(account, kms, f"localhost:{port}", certificate)
    finally:
        server.stop(None).wait()
        account.http.shutdown()
        thread.join()
        account.http.server_close()


def make_certificate(directory: Path, name: str) -> tuple[Path, Path]:
    """Make a self-signed certificate and its key for a host name."""
    certificate = issue(name, names=[name]).write(directory / f"{name}.crt")
    return certificate, key_of(certificate)
