"""Recipients and messages for tests of PKCS#7."""

from __future__ import annotations

from tests.support.keywrap import pkcs7_writer as writer
from tests.support.keywrap.pkcs7_parts import (
    OPTIONS,
    somebody,
)
from tests.support.keywrap.pkcs7_writer import algorithm, der

DOES_NOT_OPEN = "it does not open this wrapped key"


def ciphertext(parts: writer.Parts) -> bytes:
    return parts.content[5:] + parts.mac[5:]


def as_the_reference(parts: writer.Parts) -> writer.Parts:
    """Give the content the reference's parameters: a SEQUENCE with a primitive tag."""
    parameters = bytes.fromhex("10133011840c") + writer.NONCE + bytes.fromhex("020110")
    return parts._replace(
        content_type=writer.ENVELOPED_DATA,
        algorithm=algorithm(writer.AES_256_GCM, parameters),
        content=der(0x80, ciphertext(parts)),
        mac=b"",
    )


CMS = writer.enveloped(writer.gcm_parts(somebody().key, OPTIONS))
