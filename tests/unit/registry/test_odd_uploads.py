"""Registries that fail while a blob is sent or received, and proxies with a login."""

from __future__ import annotations

import socket
import threading
from base64 import b64encode
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import pytest

from decoder import limits
from decoder.errors import DigestError, ImageError
from decoder.formats.mediatypes import OCI_MANIFEST
from decoder.image.errors import InterruptedWriteError
from decoder.image.registry.download import Download
from decoder.image.registry.upload import Upload
from decoder.image.transport import Options, open_target
from decoder.registry.client import RegistryClient
from decoder.registry.hosts import UnreachableError
from decoder.registry.login import Logins
from decoder.registry.reference import parse_reference
from tests.support.image.images import digest_of
from tests.support.network.loopback import Answer, Asked, Authority, Loopback, json_answer
from tests.support.registry.faults import Asked as Request
from tests.support.registry.faults import Fault, FaultyRegistry
from tests.support.registry.memory_registry import MemoryRegistry

BLOB = b"a blob" * 100
DIGEST = digest_of(BLOB)
DESCRIPTOR = {"mediaType": "application/octet-stream", "digest": DIGEST, "size": len(BLOB)}


def client(host: str, tls_verify: bool = True) -> RegistryClient:
    return RegistryClient(parse_reference(f"//{host}/team/image"), tls_verify, [], Logins())


class Odd(MemoryRegistry):
    """A registry that answers some requests as a test wants: by their method and a part of their path."""

    def __init__(self, answers: dict[tuple[str, str], Answer], wants_token: bool = False) -> None:
        super().__init__(wants_token)
        usual = self.answer

        def answer(asked: Asked) -> Answer | None:
            found = (
                given for (method, part), given in answers.items() if method == asked.method and part in asked.path
            )
            return next(found, None) or usual(asked)

        self.answer = answer


@pytest.mark.parametrize(
    ("answer", "kind", "reason"),
    [
        (
            json_answer({"errors": [{"code": "DENIED", "message": "quota"}]}, 413),
            ImageError,
            "(HTTP 413, DENIED: quota",
        ),
        (Answer(404), InterruptedWriteError, f"it does not accept {DIGEST} (HTTP 404)"),
        (Answer(400), DigestError, f"it does not accept {DIGEST} (HTTP 400)"),
        (Answer(201, b"", {"Docker-Content-Digest": f"sha256:{'0' * 64}"}), DigestError, "received something other"),
    ],
)
def test_blob_that_is_not_accepted(answer: Answer, kind: type[ImageError], reason: str) -> None:
    with Odd({("PUT", "digest="): answer}) as registry, client(registry.host) as opened, Upload(opened, 600) as upload:
        upload.write(memoryview(BLOB))
        with pytest.raises(kind) as raised:
            upload.commit(DIGEST, len(BLOB))
    assert type(raised.value) is kind
    assert reason in str(raised.value)


def test_manifest_that_gets_another_digest() -> None:
    answer = Answer(201, b"", {"Docker-Content-Digest": f"sha256:{'0' * 64}"})
    with (
        Odd({("PUT", "manifests/"): answer}) as registry,
        open_target(f"docker://{registry.host}/team/image:tag", Options()) as target,
        pytest.raises(DigestError, match=f"received something other than {DIGEST}: 'sha256:0{{64}}'"),
    ):
        target.put_manifest(BLOB, {**DESCRIPTOR, "mediaType": OCI_MANIFEST})


def test_blob_whose_upload_goes_elsewhere() -> None:
    """No TLS where the registry says that there is: the blob may be written again."""
    with Loopback(lambda _: Answer(404)) as other:
        elsewhere = Answer(202, b"", {"Location": f"https://127.0.0.1:{other.port}/x"})
        with (
            Odd({("POST", "uploads"): elsewhere}) as registry,
            client(registry.host) as opened,
            pytest.raises(InterruptedWriteError, match=f"127.0.0.1:{other.port}"),
            Upload(opened, 1),
        ):
            pass
    assert other.asked == []


def test_location_that_is_not_a_url() -> None:
    with (
        Odd({("POST", "uploads"): Answer(202, b"", {"Location": "http://[bad"})}) as registry,
        client(registry.host) as opened,
        pytest.raises(ImageError, match=r"gives no usable Location \(HTTP 202\)"),
        Upload(opened, 1),
    ):
        pass


def write_until_it_fails(upload: Upload) -> None:
    block = memoryview(bytes(1 << 20))
    while True:
        upload.write(block)


@pytest.mark.parametrize(
    ("status", "kind", "reason"),
    [(403, ImageError, "access is denied (HTTP 403)"), (503, InterruptedWriteError, "(HTTP 503)")],
)
def test_reason_that_is_sent_before_the_end_of_a_blob(status: int, kind: type[ImageError], reason: str) -> None:
    """The server replies, and closes the connection while the blob is being sent."""
    with socket.create_server(("127.0.0.1", 0)) as listener:

        def serve() -> None:
            connection, _ = listener.accept()
            listener.close()  # nobody hears that the upload is given up
            with connection:
                while b"\r\n\r\n" not in connection.recv(65536, socket.MSG_PEEK):
                    pass
                connection.sendall(f"HTTP/1.1 {status} No\r\nContent-Length: 0\r\n\r\n".encode())

        server = threading.Thread(target=serve, daemon=True)
        server.start()
        place = f"http://127.0.0.1:{listener.getsockname()[1]}/x"
        answers = {("POST", "uploads"): Answer(202, b"", {"Location": place})}
        with (
            Odd(answers) as registry,
            client(registry.host) as opened,
            Upload(opened, 1 << 40) as upload,
            pytest.raises(ImageError) as raised,
        ):
            write_until_it_fails(upload)
        server.join(60)
    assert type(raised.value) is kind
    assert reason in str(raised.value)


def read_all(download: Download, received: bytearray) -> None:
    buffer = memoryview(bytearray(len(BLOB)))
    while count := download.readinto(buffer):
        received += buffer[:count]


def test_download_that_cannot_be_resumed() -> None:
    """The connection ends within the blob, and the registry sends the whole blob again."""
    with MemoryRegistry() as registry:
        registry.blobs[DIGEST] = BLOB

        def rule(asked: Request) -> Fault | None:
            return Fault(cut=100) if "/blobs/" in asked.path and "range" not in asked.headers else None

        with FaultyRegistry(registry.host, rule) as faulty, client(faulty.host) as opened:
            download = Download(opened, DESCRIPTOR)
            received = bytearray()
            with pytest.raises(UnreachableError):
                read_all(download, received)
            download.close()
    assert received == BLOB[:100]
    assert faulty.count("GET", "/blobs/") == 2


def test_token_that_ends_at_once() -> None:
    """Each request has a new token."""
    answers = {("GET", "/token"): json_answer({"token": "token-of-the-test", "expires_in": 1e-9})}
    with Odd(answers, wants_token=True) as registry, client(registry.host) as opened:
        registry.blobs[DIGEST] = BLOB
        for _ in range(2):
            Download(opened, DESCRIPTOR).close()
    assert [asked.path.partition("?")[0] for asked in registry.asked].count("/token") == 3


@pytest.mark.parametrize("status", [404, 302])
def test_service_that_issues_no_token(status: int) -> None:
    with (
        Odd({("GET", "/token"): Answer(status)}, wants_token=True) as registry,
        pytest.raises(ImageError) as raised,
        client(registry.host),
    ):
        pass
    assert str(raised.value) == f"{registry.host} does not issue a token for {registry.host} (HTTP {status})"


def test_busy_registry_with_tls(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(limits, "REGISTRY_RETRY_SECONDS", 0.001)
    left = [503, 503]
    context = Authority(tmp_path).server_context("127.0.0.1")
    with (
        Loopback(lambda _: Answer(left.pop() if left else 200), context) as registry,
        client(f"127.0.0.1:{registry.port}", tls_verify=False) as opened,
    ):
        assert opened.url("x").startswith("https://")
    assert [asked.path for asked in registry.asked] == ["/v2/"] * 3


@contextmanager
def refusing_proxy(heads: list[bytes]) -> Iterator[str]:
    """A proxy that refuses each connection, and keeps what was asked."""
    with socket.create_server(("127.0.0.1", 0)) as listener:

        def serve() -> None:
            while True:
                connection, _ = listener.accept()
                with connection:
                    heads.append(connection.recv(65536))
                    connection.sendall(b"HTTP/1.1 407 No\r\nContent-Length: 0\r\n\r\n")

        threading.Thread(target=serve, daemon=True).start()
        yield f"127.0.0.1:{listener.getsockname()[1]}"


def test_login_of_a_proxy(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(limits, "REGISTRY_RETRY_SECONDS", 0.001)
    heads: list[bytes] = []
    with refusing_proxy(heads) as proxy:
        monkeypatch.setenv("https_proxy", f"http://user:a%20secret@{proxy}")
        with pytest.raises(ImageError, match=r"registry\.invalid") as raised, client("registry.invalid"):
            pass
    assert "secret" not in str(raised.value)
    assert heads[0].startswith(b"CONNECT registry.invalid:443 ")
    assert b64encode(b"user:a secret") in heads[0]
