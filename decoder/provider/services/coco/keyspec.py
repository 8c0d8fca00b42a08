"""Key specs, `NAME=VALUE::NAME=VALUE`: the text after `provider:attestation-agent:` when an image is encrypted."""

from __future__ import annotations

import re
from typing import NamedTuple

from decoder.errors import quoted
from decoder.keywrap.kid import ResourceId, parse_kid
from decoder.provider.errors import ProviderError
from decoder.provider.services.coco.packet import GCM, IV_BYTES

# A key id may contain "::", in the IPv6 address of a host.
_SEPARATOR = re.compile("::(?=[a-z]+=)")
_NAMES = ("keyid", "keypath", "algorithm", "sample", "create")


class KeySpec(NamedTuple):
    """A parsed key spec: the key and the algorithm that wrap private options.

    Attributes:
        keyid: the id of the key; None for a new, unique id.
        keypath: a file of 32 bytes, the key; "" for a new one.
        algorithm: A256GCM or A256CTR.
        sample: wrap with the sample key, which everybody knows.
        create: create the key and its file if the file does not exist.
    """

    keyid: ResourceId | None = None
    keypath: str = ""
    algorithm: str = GCM
    sample: bool = False
    create: bool = False


def parse_keyspec(text: str) -> KeySpec:
    """Parse a key spec.

    Args:
        text: the key spec; "" for one without members.

    Raises:
        ProviderError: a member is unknown, malformed or repeated, or members contradict each other.
    """
    members: dict[str, str] = {}
    for item in _SEPARATOR.split(text) if text else ():
        name, separator, value = item.partition("=")
        if name not in _NAMES or not separator:
            raise ProviderError(f"the key spec has the member {quoted(name)}, which is not one of {', '.join(_NAMES)}")
        if name in members or not value:
            raise ProviderError(f"the key spec has {name} {'twice' if name in members else 'without a value'}")
        members[name] = value
    algorithm = members.get("algorithm", GCM)
    if algorithm not in IV_BYTES:
        raise ProviderError(f"the key spec's algorithm is {quoted(algorithm)}, not {' or '.join(IV_BYTES)}")
    keyid = parse_kid(members["keyid"]) if "keyid" in members else None
    spec = KeySpec(keyid, members.get("keypath", ""), algorithm, _flag(members, "sample"), _flag(members, "create"))
    if spec.sample and (keyid or spec.keypath or spec.create):
        raise ProviderError("the key spec has sample=true, which excludes keyid, keypath and create")
    if spec.create and not spec.keypath:
        raise ProviderError("the key spec has create=true without keypath, the file for the new key")
    if spec.keypath and not keyid:
        raise ProviderError("the key spec has keypath without keyid, the name of the key")
    return spec


def _flag(members: dict[str, str], name: str) -> bool:
    value = members.get(name, "false")
    if value not in ("true", "false"):
        raise ProviderError(f"the key spec's {name} is {quoted(value)}, not true or false")
    return value == "true"
