"""Requests to key services that change nothing.

Services with keys in files, on tokens or from sources check these themselves. The others are asked to decrypt a few
bytes that are not a wrapped key. If a service answers that the bytes are malformed, it can be reached, knows this node,
and would let it decrypt with the key. Only the right to decrypt is needed. The request appears in the service's audit.
"""

from __future__ import annotations

import re
from typing import TYPE_CHECKING, NamedTuple

from decoder import limits
from decoder.errors import DecoderError
from decoder.formats import wire
from decoder.provider.errors import ProviderError

if TYPE_CHECKING:
    from collections.abc import Callable, Mapping

    from decoder.provider import Checked
    from decoder.provider.client.config import NativeProvider

_GARBAGE = bytes(256)
_ABSENT_VERSION = "0" * 32


class UnreachableError(Exception):
    """A provider cannot be used; the text has the reason."""


class PartlyReachableError(UnreachableError):
    """Some keys or sources of a provider cannot be used, while others can; the text has the reasons."""


class Probe(NamedTuple):
    """The probe of one key service.

    Attributes:
        members: builds the members of an annotation for a key.
        reached: builds a pattern for the errors that the service sends only after it has checked all permissions.
    """

    members: Callable[[str], Mapping[str, object]]
    reached: Callable[[str], str]


def _awskms(key: str) -> dict[str, object]:
    url = key if key.startswith("awskms://") else f"awskms://{key}"
    blob = key.rpartition("/")[2].encode() + _GARBAGE  # servers that emulate KMS read a key's ID there
    return {"key_url": url, "wrapped_key": wire.encode_base64(blob), "wrap_type": "AWSKMS"}


def _gcpkms(key: str) -> dict[str, object]:
    return {"key_url": key, "wrapped_key": wire.encode_base64(_GARBAGE), "wrap_type": "AES"}


def _azurekv(key: str) -> dict[str, object]:
    return {
        "key_url": key,
        "wrapped_key": wire.encode_base64(_GARBAGE),
        "wrap_type": "RSA-OAEP-256+A256GCM",
        "key_version": _azure_version(key) or _ABSENT_VERSION,
        "iv": wire.encode_base64(bytes(12)),
        "wrapped_data": wire.encode_base64(bytes(32)),
    }


def _azure_version(key: str) -> str:
    return key.rpartition("/keys/")[2].partition("/")[2]


def _azure_reached(key: str) -> str:
    """Return the pattern. A vault checks permissions before the version, so 404 is a success without a version."""
    return r"answers HTTP 400\b" if _azure_version(key) else r"answers HTTP (400|404)\b"


def _openbao(key: str) -> dict[str, object]:
    ciphertext = f"vault:v1:{wire.encode_base64(_GARBAGE)}"
    return {"key_url": key, "wrapped_key": ciphertext, "wrap_type": "TRANSIT"}


PROBES = {
    "awskms": Probe(_awskms, lambda _key: r"InvalidCiphertext"),
    "gcpkms": Probe(_gcpkms, lambda _key: r"INVALID_ARGUMENT"),
    "azurekv": Probe(_azurekv, _azure_reached),
    "openbao": Probe(_openbao, lambda _key: r"status 400\b|message authentication failed|invalid ciphertext"),
}


def _summary(checked: Checked) -> str:
    """Summarize the result in one line.

    Raises:
        PartlyReachableError: some keys or sources cannot be used.
        UnreachableError: none can be used.
    """
    if checked.problems:
        kind = PartlyReachableError if checked.works else UnreachableError
        raise kind("; ".join((*checked.problems, *checked.works)))
    return "; ".join(checked.works)


def ask(native: NativeProvider) -> str:
    """Ask the key service of one of our own providers whether it would decrypt for this node.

    Returns:
        The text of a finding.

    Raises:
        PartlyReachableError: some of its keys or sources cannot be used.
        UnreachableError: a library is absent, the configuration is wrong, or the service refuses or does not answer.
    """
    import json

    from decoder import provider
    from decoder.provider.deadline import within

    probe = PROBES.get(native.provider)
    key = str(native.options.get("key", ""))
    try:
        service = within(limits.PROVIDER_PROBE_SECONDS, lambda: provider.create(native.provider, native.options))
        if checked := service.check(limits.PROVIDER_PROBE_SECONDS):
            return _summary(checked)
        if probe is None or not key:
            return "its configuration is valid; the key service was not asked" if probe else "it can be used"
        annotation = json.dumps(probe.members(key)).encode()
        seconds = limits.DOCTOR_SECONDS * limits.PROVIDER_OWN_SHARE  # so that the service can say why it failed
        within(limits.DOCTOR_SECONDS, lambda: service.unwrap(annotation, [], seconds))
    except ProviderError as error:
        if probe and re.search(probe.reached(key), str(error)):
            return f"the key service answers, and decrypts with {key.partition('?')[0]}"
        raise UnreachableError(str(error)) from error
    except DecoderError as error:
        raise UnreachableError(str(error)) from error
    except UnreachableError:
        raise
    except Exception as error:  # from a library: its text may hold a secret
        raise UnreachableError(f"it failed unexpectedly ({type(error).__name__})") from error
    raise UnreachableError("the key service opened bytes that are not a wrapped key")
