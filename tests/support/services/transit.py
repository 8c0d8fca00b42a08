"""A key service that counts: Transit's encrypt and decrypt, over HTTP on this machine."""

from __future__ import annotations

import base64
import json
from typing import TYPE_CHECKING

from tests.support.network.loopback import Answer, Loopback, json_answer

if TYPE_CHECKING:
    from tests.support.network.loopback import Asked


class Transit(Loopback):
    """Wraps by turning the characters of the plaintext around; needs BAO_TOKEN, whatever it is."""

    def __init__(self) -> None:
        super().__init__(_answer)

    @property
    def calls(self) -> list[str]:
        """What was asked for so far: `encrypt` and `decrypt`."""
        return [asked.path.split("/")[3] for asked in self.asked]


def _answer(asked: Asked) -> Answer:
    members = json.loads(asked.body)
    if "plaintext" in members:
        turned = base64.b64encode(base64.b64decode(members["plaintext"])[::-1]).decode()
        return json_answer({"data": {"ciphertext": f"vault:v1:{turned}"}})
    turned = base64.b64encode(base64.b64decode(members["ciphertext"].removeprefix("vault:v1:"))[::-1]).decode()
    return json_answer({"data": {"plaintext": turned}})
