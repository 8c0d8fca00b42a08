"""The keyprovider attestation-agent, and what it wraps."""

from __future__ import annotations

import json
from base64 import b64decode
from typing import TYPE_CHECKING, Any

from decoder.provider import create
from tests.support.keys import independent
from tests.support.keywrap.layers import Layer, private_options
from tests.support.program.processes import Result, payload_bytes, run_decoder
from tests.support.provider.serving import configure

if TYPE_CHECKING:
    from pathlib import Path

    from decoder.provider.audit import Provider

NAME = "attestation-agent"
KID = "kbs:///default/image_key/nginx"
KEY = bytes(range(32))
OPTIONS = private_options()
NOBODY_LISTENS = "https://127.0.0.1:1"


def agent(**options: Any) -> Provider:
    return create(NAME, {name.replace("_", "-"): value for name, value in options.items()})


def wrapped(spec: str, **options: Any) -> dict[str, str]:
    members: dict[str, str] = json.loads(agent(**options).wrap(OPTIONS, [spec]))
    return members


def opened(packet: dict[str, str], key: bytes) -> bytes:
    iv, data = b64decode(packet["iv"], validate=True), b64decode(packet["wrapped_data"], validate=True)
    return independent.gcm_open(key, iv, data) if packet["wrap_type"] == "A256GCM" else independent.ctr(key, iv, data)


def decrypt(directory: Path, layer: Layer, entry: dict[str, Any], parameters: Any = None) -> Result:
    environment = configure(directory / "keyproviders.json", {NAME: entry})
    return run_decoder(payload_bytes(layer.descriptor, parameters), layer.ciphertext, environment=environment)
