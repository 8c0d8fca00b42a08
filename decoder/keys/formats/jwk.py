"""Keys as JWK (RFC 7517, RFC 7518 §6): RSA, with or without CRT members and primes, and EC.

Members of other key types are ignored, as the reference does.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

from decoder import limits
from decoder.errors import KeyFileError, quoted
from decoder.formats import wire

if TYPE_CHECKING:
    from cryptography.hazmat.primitives.asymmetric import ec, rsa


def parse_private(data: bytes) -> rsa.RSAPrivateKey | ec.EllipticCurvePrivateKey:
    """Parse a private JWK.

    Args:
        data: UTF-8 JSON, at most KEY_FILE_BYTES.

    Raises:
        KeyFileError: it is malformed, public, of another type, or on a curve that is not supported.
    """
    try:
        members = wire.parse_object(data)
        kind = members.get("kty")
        if kind not in ("RSA", "EC"):
            raise KeyFileError(f"it is a JWK of the type {quoted(kind)}; only RSA and EC keys open layers")
        if "d" not in members:
            raise KeyFileError("it is a public JWK; a private key is needed")
        return _rsa(members) if kind == "RSA" else _ec(members)
    except (ValueError, TypeError, OverflowError) as error:
        raise KeyFileError(f"it cannot be parsed as a JWK: {_reason(error)}") from error


def parse_public(members: dict[str, object]) -> rsa.RSAPublicKey | ec.EllipticCurvePublicKey:
    """Build the public key of a JWK.

    Args:
        members: the JWK's members; private ones are ignored.

    Raises:
        KeyFileError: it is malformed, of another type, or on a curve that is not supported.
    """
    from cryptography.hazmat.primitives.asymmetric import rsa

    kind = members.get("kty")
    try:
        if kind == "RSA":
            return rsa.RSAPublicNumbers(_number(members, "e"), _number(members, "n")).public_key()
        if kind == "EC":
            return _point(members).public_key()
    except (ValueError, TypeError, OverflowError) as error:
        raise KeyFileError(f"it cannot be parsed as a JWK: {_reason(error)}") from error
    raise KeyFileError(f"it is a JWK of the type {quoted(kind)}; only RSA and EC keys can be encrypted to")


def _reason(error: Exception) -> str:
    """Return the reason in our own words, because the library's message may quote the key."""
    return str(error) if isinstance(error, _MemberError) else "its numbers do not make a key"


class _MemberError(ValueError):
    """A member that cannot be read; the text names it."""


def _rsa(members: dict[str, object]) -> rsa.RSAPrivateKey:
    from decoder.keys.formats.rsanumbers import private_key

    primes = [_number(members, name) for name in ("p", "q") if members.get(name) is not None]
    primes += [_number(wire.object_value(other), "r") for other in wire.list_value(members.get("oth"))]
    if len(primes) == 1:
        raise _MemberError("it has one prime alone")
    return private_key(_number(members, "n"), _number(members, "e"), _number(members, "d"), primes)


def _ec(members: dict[str, object]) -> ec.EllipticCurvePrivateKey:
    from cryptography.hazmat.primitives.asymmetric import ec

    secret = _number(members, "d")
    if members.get("x") is None or members.get("y") is None:
        return ec.derive_private_key(secret, _curve(members))
    return ec.EllipticCurvePrivateNumbers(secret, _point(members)).private_key()


def _point(members: dict[str, object]) -> ec.EllipticCurvePublicNumbers:
    from cryptography.hazmat.primitives.asymmetric import ec

    return ec.EllipticCurvePublicNumbers(_number(members, "x"), _number(members, "y"), _curve(members))


def _curve(members: dict[str, object]) -> ec.EllipticCurve:
    from cryptography.hazmat.primitives.asymmetric import ec

    curves: dict[object, ec.EllipticCurve] = {
        "P-256": ec.SECP256R1(),
        "P-384": ec.SECP384R1(),
        "P-521": ec.SECP521R1(),
    }
    name = members.get("crv")
    if not isinstance(name, str) or name not in curves:
        raise KeyFileError(f"its curve {quoted(name)} is not supported ({', '.join(map(str, curves))} are)")
    return curves[name]


def _number(members: dict[str, object], name: str) -> int:
    """Read a Base64urlUInt (RFC 7518 §2), padded or not."""
    value = members.get(name)
    if not isinstance(value, str) or not value:
        raise _MemberError(f"its member {name} is not a number in base64url")
    try:
        number = wire.decode_base64url(value.rstrip("="))
    except ValueError as error:
        raise _MemberError(f"its member {name} is not a number in base64url") from error
    if len(number.lstrip(b"\0")) > limits.KEY_NUMBER_BYTES:
        raise _MemberError(f"its member {name} is longer than {limits.KEY_NUMBER_BYTES} bytes")
    return int.from_bytes(number)
