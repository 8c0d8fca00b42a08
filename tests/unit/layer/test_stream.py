"""The cipher loop against an independent AES-CTR and HMAC, and what it releases before the verdict."""

from __future__ import annotations

import hashlib
import hmac
import os
import random
import tempfile
import threading
from collections.abc import Callable, Iterator
from typing import cast

import pytest
from cryptography.hazmat.primitives.ciphers import Cipher, algorithms, modes

from decoder import limits
from decoder.errors import LayerError, StreamError
from decoder.layer import stream
from decoder.layer.annotations import LayerKey
from tests.support.keywrap.layers import NONCE, SYMMETRIC_KEY, MemoryFile, sink_of, source_of

TAIL = limits.TAIL_BYTES
BUFFER = limits.BUFFER_BYTES
LENGTHS = [0, 1, 15, 16, 17]
LENGTHS += [n + d for n in (TAIL, 65536, BUFFER, 2 * BUFFER, limits.THREAD_AFTER_BYTES) for d in (-1, 0, 1)]
LENGTHS += [limits.THREAD_AFTER_BYTES + limits.RING_BUFFERS * BUFFER * 3 + 7, BUFFER + TAIL, BUFFER + TAIL + 1]
LENGTHS += [limits.LARGE_AFTER_BYTES + limits.RING_BUFFERS * limits.LARGE_BUFFER_BYTES * 2 + 7]


def by_hand(plaintext: bytes) -> tuple[bytes, LayerKey]:
    cipher = Cipher(algorithms.AES(SYMMETRIC_KEY), modes.CTR(NONCE)).encryptor()
    ciphertext = cipher.update(plaintext) + cipher.finalize()
    return ciphertext, LayerKey(SYMMETRIC_KEY, NONCE, hmac.digest(SYMMETRIC_KEY, ciphertext, "sha256"))


def decrypted(ciphertext: bytes, key: LayerKey, buffer_bytes: int = limits.LARGE_BUFFER_BYTES) -> bytes:
    sink = MemoryFile()
    stream.decrypt(source_of(ciphertext), sink_of(sink), key, buffer_bytes)
    return sink.getvalue()


@pytest.mark.parametrize("length", LENGTHS)
@pytest.mark.parametrize("buffer_bytes", [limits.SMALL_PIPE_BUFFER_BYTES, BUFFER, limits.LARGE_BUFFER_BYTES])
def test_decrypts_every_length(length: int, buffer_bytes: int) -> None:
    plaintext = random.Random(length).randbytes(length)
    ciphertext, key = by_hand(plaintext)
    assert decrypted(ciphertext, key, buffer_bytes) == plaintext


@pytest.mark.parametrize("length", LENGTHS)
def test_encrypts_every_length(length: int) -> None:
    plaintext = random.Random(length).randbytes(length)
    ciphertext, key = by_hand(plaintext)
    sink = MemoryFile()
    assert stream.encrypt(source_of(plaintext), sink_of(sink), SYMMETRIC_KEY, NONCE) == key.hmac
    assert sink.getvalue() == ciphertext


@pytest.mark.parametrize("length", LENGTHS)
def test_keeps_the_tail_of_a_damaged_layer(length: int) -> None:
    plaintext = random.Random(length).randbytes(length)
    ciphertext, key = by_hand(plaintext)
    wrong = key._replace(hmac=bytes(32))
    sink = MemoryFile()
    with pytest.raises(LayerError, match="HMAC differs"):
        stream.decrypt(source_of(ciphertext), sink_of(sink), wrong)
    assert sink.getvalue() == plaintext[: max(0, length - TAIL)]


def test_releases_as_it_goes() -> None:
    """A layer need not end for its start to come out: only the tail waits."""
    ciphertext, key = by_hand(bytes(BUFFER))
    source_read, source_write = os.pipe()
    sink_read, sink_write = os.pipe()
    with open(source_read, "rb", 0) as source, open(sink_write, "wb", 0) as sink, open(sink_read, "rb", 0) as reader:
        worker = threading.Thread(target=stream.decrypt, args=(source, sink, key, 65536))
        worker.start()
        os.write(source_write, ciphertext[:65536])
        received = b""
        while len(received) < 65536 - TAIL:
            received += reader.read(65536)
        assert received == bytes(65536 - TAIL)
        drain = threading.Thread(target=reader.readall)
        drain.start()
        os.write(source_write, ciphertext[65536:])
        os.close(source_write)
        worker.join(120)
        assert not worker.is_alive()
        sink.close()
        drain.join(120)


def test_every_flip_and_every_cut_is_refused() -> None:
    plaintext = random.Random(1).randbytes(600)
    ciphertext, key = by_hand(plaintext)
    damaged = [ciphertext[:at] + bytes([ciphertext[at] ^ 1]) + ciphertext[at + 1 :] for at in range(len(ciphertext))]
    damaged += [ciphertext[:at] for at in range(len(ciphertext))]
    damaged += [ciphertext + b"\0", b"\0" + ciphertext, ciphertext * 2]
    for data in damaged:
        sink = MemoryFile()
        with pytest.raises(LayerError):
            stream.decrypt(source_of(data), sink_of(sink), key)
        assert sink.getvalue() == b""


@pytest.mark.parametrize("length", [0, 1, TAIL + 1, BUFFER + 1, limits.THREAD_AFTER_BYTES + BUFFER])
def test_verified_release_is_all_or_nothing(length: int) -> None:
    plaintext = random.Random(length).randbytes(length)
    ciphertext, key = by_hand(plaintext)
    for expected, released in ((key.hmac, plaintext), (bytes(32), b"")):
        sink = MemoryFile()
        with tempfile.TemporaryFile(buffering=0) as spool:
            try:
                stream.decrypt_verified(source_of(ciphertext), sink_of(sink), [key._replace(hmac=expected)], spool)
            except LayerError:
                assert expected != key.hmac
        assert sink.getvalue() == released


@pytest.mark.parametrize("streams", [("/dev/zero", "/dev/full"), ("/", "/dev/null")])
def test_says_which_stream_failed(streams: tuple[str, str]) -> None:
    key = by_hand(b"")[1]
    source = os.open(streams[0], os.O_RDONLY)
    with open(streams[1], "wb", 0) as sink:
        directory = cast("stream.Source", Descriptor(source))
        name = "standard output" if streams[1] == "/dev/full" else "standard input"
        with pytest.raises(StreamError, match=f"^{name}: "):
            stream.decrypt(directory, sink, key)
    os.close(source)


class Descriptor:
    """The least that is a source: reads without looking at what the descriptor is."""

    def __init__(self, descriptor: int) -> None:
        self._descriptor = descriptor

    def readinto(self, buffer: memoryview) -> int:
        return os.readv(self._descriptor, [buffer])

    def fileno(self) -> int:
        return self._descriptor


class Reluctant(MemoryFile):
    """A file that takes and gives a byte at a time, and now and then nothing yet, like a non-blocking pipe."""

    def __init__(self, data: bytes, fileno: int) -> None:
        super().__init__(data)
        self._calls = 0
        self._fileno = fileno

    def _reluctantly(self, act: Callable[[], int]) -> int | None:
        self._calls += 1
        return None if self._calls % 3 == 0 else act()

    def readinto(self, buffer: memoryview) -> int | None:  # type: ignore[override]
        return self._reluctantly(lambda: MemoryFile.readinto(self, buffer[:1]))

    def write(self, data: memoryview) -> int | None:  # type: ignore[override]
        return self._reluctantly(lambda: MemoryFile.write(self, data[:1]))

    def fileno(self) -> int:
        return self._fileno


@pytest.fixture
def always_ready() -> Iterator[int]:
    descriptor = os.open("/dev/null", os.O_RDWR)
    yield descriptor
    os.close(descriptor)


@pytest.mark.parametrize("head_bytes", [0, 64, 10_000])
def test_short_and_unready_reads_and_writes(head_bytes: int, always_ready: int) -> None:
    plaintext = bytes(range(256)) * 4
    ciphertext, key = by_hand(plaintext)
    source, sink = cast("stream.Source", Reluctant(ciphertext, always_ready)), Reluctant(b"", always_ready)
    if head_bytes:
        source = stream.Rewound(source, head_bytes)
        assert source.head == ciphertext[:head_bytes]
    stream.decrypt(source, cast("stream.Sink", sink), key, buffer_bytes=100)
    assert sink.getvalue() == plaintext


def test_reads_more_at_a_time_once_a_layer_is_large() -> None:
    """Small reads first, for the rest of the machine to have work early; never more than is allowed."""
    asked: list[int] = []

    class Noting(MemoryFile):
        def readinto(self, buffer: memoryview, /) -> int:  # type: ignore[override]
            asked.append(len(buffer))
            return super().readinto(buffer)

    ciphertext, key = by_hand(bytes(2 * limits.LARGE_AFTER_BYTES))
    source = cast("stream.Source", Noting(ciphertext))
    stream.decrypt(source, sink_of(MemoryFile()), key, limits.LARGE_BUFFER_BYTES)
    small = limits.LARGE_AFTER_BYTES // BUFFER
    assert set(asked[:small]) == {BUFFER}
    assert set(asked[small:]) == {limits.LARGE_BUFFER_BYTES}


def test_a_failing_thread_is_an_error_not_a_hang(monkeypatch: pytest.MonkeyPatch) -> None:
    from decoder.layer import authenticator

    class Failing:
        def __init__(self, *_: object) -> None:
            self.seen = 0

        def update(self, data: memoryview) -> None:
            self.seen += len(data)
            if self.seen > limits.THREAD_AFTER_BYTES + BUFFER:
                raise MemoryError

    monkeypatch.setattr(authenticator, "HMAC", Failing)
    monkeypatch.setattr(os, "sched_getaffinity", lambda _: {0, 1})
    with pytest.raises(MemoryError):
        stream.decrypt(source_of(bytes(limits.THREAD_AFTER_BYTES * 2)), sink_of(MemoryFile()), by_hand(b"")[1])


def test_the_thread_is_an_optimization_only(monkeypatch: pytest.MonkeyPatch) -> None:
    plaintext = random.Random(5).randbytes(limits.THREAD_AFTER_BYTES * 2)
    ciphertext, key = by_hand(plaintext)
    for cores in ({0}, {0, 1}):
        monkeypatch.setattr(os, "sched_getaffinity", lambda _, cores=cores: cores)
        before = threading.active_count()
        assert hashlib.sha256(decrypted(ciphertext, key)).digest() == hashlib.sha256(plaintext).digest()
        assert threading.active_count() == before
