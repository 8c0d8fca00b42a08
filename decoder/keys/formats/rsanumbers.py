"""RSA private keys from their numbers: without CRT members, without primes, or with more than two primes."""

from __future__ import annotations

from math import lcm, prod

from cryptography.hazmat.primitives.asymmetric import rsa

from decoder import limits
from decoder.formats.ber import INTEGER, SEQUENCE, Reader


def private_key(modulus: int, exponent: int, private_exponent: int, primes: list[int]) -> rsa.RSAPrivateKey:
    """Build a private key.

    A key with more than two primes (RFC 8017 §3.2) is passed to OpenSSL as two coprime factors: the first prime, and
    the product of the others. The Chinese remainder theorem needs no more. So OpenSSL does the private operation, and
    no arithmetic here handles a ciphertext. Blinding works as for two primes, because OpenSSL derives it from the
    modulus and the public exponent (RSA_setup_blinding), and checks the result with the public key (rsa_ossl_mod_exp).

    Args:
        modulus: n, of at most KEY_NUMBER_BYTES.
        exponent: e.
        private_exponent: d.
        primes: all primes of the key, at most RSA_PRIMES; or [], to compute them from the other numbers.

    Raises:
        ValueError: the numbers do not match each other.
    """
    if not primes:
        primes = _recovered(modulus, exponent, private_exponent)
    first, *others = primes
    rest = prod(others)
    if min(primes) < 3 or first * rest != modulus or len(primes) > limits.RSA_PRIMES:
        raise ValueError("the primes do not belong to the modulus")
    if exponent * private_exponent % lcm(*(prime - 1 for prime in primes)) != 1:
        raise ValueError("the private exponent does not belong to the public one")
    numbers = rsa.RSAPrivateNumbers(
        p=first,
        q=rest,
        d=private_exponent,
        dmp1=private_exponent % (first - 1),
        dmq1=private_exponent % lcm(*(prime - 1 for prime in others)),
        iqmp=pow(rest, -1, first),
        public_numbers=rsa.RSAPublicNumbers(exponent, modulus),
    )
    return numbers.private_key(unsafe_skip_rsa_key_validation=True)


def parse_multi_prime(der: bytes) -> rsa.RSAPrivateKey | None:
    """Parse PKCS#1 of version 1, multi-prime (RFC 8017 §A.1.2), by itself or within PKCS#8.

    Returns:
        The key, or None if it is not a multi-prime key.

    Raises:
        ValueError: it is malformed.
    """
    fields = Reader(Reader(der).take(SEQUENCE).value)
    version = fields.take(INTEGER).value
    if version == b"\0":  # perhaps PKCS#8, which has an algorithm and an octet string here
        rest = fields.rest()
        if len(rest) < 2 or rest[0].tag != SEQUENCE:
            return None
        fields = Reader(Reader(rest[1].value).take(SEQUENCE).value)
        version = fields.take(INTEGER).value
    if version != b"\1":
        return None
    modulus, exponent, private_exponent, *primes = (_number(fields) for _ in range(5))
    for _ in range(3):  # the CRT members, which `private_key` computes
        fields.take(INTEGER)
    for other in Reader(fields.take(SEQUENCE).value).rest(limits.RSA_PRIMES):
        primes.append(_number(Reader(other.value)))
    return private_key(modulus, exponent, private_exponent, primes)


def _number(fields: Reader) -> int:
    value = fields.take(INTEGER).value
    if len(value) > limits.KEY_NUMBER_BYTES + 1:
        raise ValueError(f"a number of more than {limits.KEY_NUMBER_BYTES} bytes")
    return int.from_bytes(value)


def _recovered(modulus: int, exponent: int, private_exponent: int) -> list[int]:
    """Compute the primes from d (NIST SP 800-56B, appendix C).

    Wrong numbers are rejected first, because the search would not end with them.
    """
    if modulus < 3 or pow(pow(2, exponent, modulus), private_exponent, modulus) != 2:
        raise ValueError("the private exponent does not belong to the public key")
    return list(rsa.rsa_recover_prime_factors(modulus, exponent, private_exponent))
