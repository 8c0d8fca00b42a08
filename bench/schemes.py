"""How a layer's key is wrapped: every way that both programs read, and what they need to open it."""

from __future__ import annotations

import json
import os
from collections.abc import Callable, Iterator, Mapping
from contextlib import closing, contextmanager
from functools import cache, partial
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import TYPE_CHECKING, NamedTuple

from bench.provider import server
from decoder.keywrap import jwe
from decoder.keywrap import pkcs7 as cms
from decoder.provider import create
from tests.support.layers import ec_key, pem, public_pem, rsa_key
from tests.support.pgp_home import GnupgHome
from tests.support.pkcs7_writer import certificate

if TYPE_CHECKING:
    from cryptography.hazmat.primitives.asymmetric import ec, rsa

_COMMAND, _GRPC = "bench-command", "bench-grpc"
# The wrapped key is the private options as they are, so that the provider takes next to no time of its own.
_ANSWER = r's/.*"annotation": *"([^"]*)".*/{"keyunwrapresults":{"optsdata":"\1"}}/'


class Wrapped(NamedTuple):
    """Private options, wrapped.

    Attributes:
        keys: the wrapped keys by scheme, for the layer's annotations.
        parameters: what the payload brings along to open them.
        environment: variables that the decoder needs.
    """

    keys: dict[str, list[bytes]]
    parameters: dict[str, list[bytes]]
    environment: Mapping[str, str] = {}


Wrap = Callable[[bytes], Wrapped]


def jwe_rsa(options: bytes) -> Wrapped:
    """Wrap to an RSA-2048 key."""
    return _jwe(rsa_key(), options)


def jwe_ec(options: bytes) -> Wrapped:
    """Wrap to a P-256 key."""
    return _jwe(ec_key(), options)


def pkcs7(options: bytes) -> Wrapped:
    """Wrap to the certificate of an RSA-2048 key."""
    recipient = _certificate()
    return Wrapped({"pkcs7": [cms.wrap(options, [recipient])]}, {**_private(rsa_key()), "x509s": [recipient]})


@contextmanager
def schemes() -> Iterator[dict[str, Wrap]]:
    """Make ready all schemes, by the name that the table has for them: a GnuPG home, and a keyprovider that serves."""
    with TemporaryDirectory() as name, closing(GnupgHome()) as home:
        directory = Path(name)
        home.make_key("bench", "rsa")
        secret = home.secret("bench")
        key = directory / "image.key"
        key.touch(0o600)
        key.write_bytes(os.urandom(32))
        local = create("local", {"key": str(key)})
        with server(key, directory / "log") as target:
            environment = _configure(directory / "keyproviders.conf", target)
            yield {
                "JWE RSA": jwe_rsa,
                "JWE EC": jwe_ec,
                "PKCS#7": pkcs7,
                "OpenPGP": partial(_pgp, home, secret),
                "`cmd` provider": lambda options: Wrapped({f"provider.{_COMMAND}": [options]}, {}, environment),
                "`grpc` provider": lambda options: Wrapped(
                    {f"provider.{_GRPC}": [local.wrap(options, [])]}, {}, environment
                ),
            }


def _jwe(key: rsa.RSAPrivateKey | ec.EllipticCurvePrivateKey, options: bytes) -> Wrapped:
    return Wrapped({"jwe": [jwe.wrap(options, [public_pem(key)])]}, _private(key))


def _pgp(home: GnupgHome, secret: bytes, options: bytes) -> Wrapped:
    parameters = {"gpg-privatekeys": [secret], "gpg-privatekeys-passwords": [b""]}
    return Wrapped({"pgp": [home.encrypt(options, "bench")]}, parameters)


def _private(key: rsa.RSAPrivateKey | ec.EllipticCurvePrivateKey) -> dict[str, list[bytes]]:
    return {"privkeys": [pem(key)], "privkeys-passwords": [b""]}


@cache
def _certificate() -> bytes:
    return certificate(rsa_key())


def _configure(path: Path, target: str) -> dict[str, str]:
    """Write the configuration of the keyproviders, and return the variable that names it."""
    command = {"cmd": {"path": "/bin/sed", "args": ["-E", _ANSWER]}}
    path.write_text(json.dumps({"key-providers": {_COMMAND: command, _GRPC: {"grpc": target}}}))
    return {"OCICRYPT_KEYPROVIDER_CONFIG": str(path)}
