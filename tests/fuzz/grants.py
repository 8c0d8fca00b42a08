"""What a registry serves of grants, and the certificates in it."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from contextlib import suppress
from functools import cache
from typing import NamedTuple

from cryptography.hazmat.primitives.serialization import Encoding

from decoder.grants import artifacts, listing, statements
from decoder.grants.approval import rules
from decoder.grants.errors import StatementError
from decoder.grants.place import Place, build_place, parse_place
from decoder.grants.statements import DENIED, Request, Tombstone
from decoder.provider.errors import ProviderError
from tests.support.image.grants import ID, believed, new_key
from tests.support.network.x509_certificates import Authority, client_certificate, new_authority

_REPOSITORY = "registry.example/app"
_MANIFEST = b'{"schemaVersion":2,"layers":[{"digest":"sha256:%s"}],"subject":{"digest":"sha256:%s","size":1}}'


class Made(NamedTuple):
    """What is made once: keys, a request and a tombstone."""

    authority: Authority
    certificate: bytes
    request: Request
    signed: bytes
    tombstone: bytes
    readers: list[Callable[[bytes], object]]


@cache
def made() -> Made:
    """Make it."""
    key, authority = new_key(), new_authority()
    certificate = client_certificate(key.public, "worker-1", authority)
    request = Request(_REPOSITORY, ID, key.public, "w1", "", (certificate,), 1)
    tombstone = statements.build_tombstone(Tombstone(_REPOSITORY, ID, "0" * 64, DENIED, 1), key)
    signers = believed(key)
    readers: list[Callable[[bytes], object]] = [
        statements.parse_request,
        artifacts._parse_manifest,
        lambda data: statements.parse_tombstone(data, signers),
        lambda data: statements.parse_grant(data, signers),
        lambda data: statements.parse_sealed_key(data, signers),
        key.open,
        lambda data: rules.validate(request._replace(certificates=(data, certificate)), [authority.certificate]),
        lambda data: rules.validate(request._replace(certificates=(certificate, data)), [authority.certificate]),
    ]
    return Made(authority, certificate, request, statements.build_request(request, key), tombstone, readers)


def run(data: bytes) -> None:
    """Read it as everything that it could be."""
    for read in made().readers:
        with suppress(StatementError):
            read(data)
    with suppress(ProviderError):
        parse_place(data)
    artifacts.parse_tag(data.decode(errors="replace"))
    assert listing.certificate(data).isprintable()


def seeds() -> Iterator[bytes]:
    """Give one of each kind."""
    yield from (made().signed, made().tombstone, made().certificate)
    yield made().authority.certificate.public_bytes(Encoding.DER)
    yield _MANIFEST % (b"0" * 64, b"1" * 64)
    yield build_place(Place(_REPOSITORY, ID))
