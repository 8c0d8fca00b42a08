"""Keys and providers of the tests of Google Cloud KMS."""

from __future__ import annotations

import json
from typing import TYPE_CHECKING

import pytest

from decoder import limits
from decoder.formats import wire
from decoder.layer import annotations as layer
from decoder.provider.errors import ProviderError
from tests.support.services.gcp_server import KEY, OTHER_KEY, Google

if TYPE_CHECKING:
    import threading
    from collections.abc import Callable

URI = f"gcpkms://{KEY}"
OTHER_URI = f"gcpkms://{OTHER_KEY}"
LAYER_KEY = bytes(range(100, 132))
OPTIONS = layer.build_private_options(layer.PrivateOptions(LAYER_KEY, bytes(16), "sha256:" + "0" * 64))


def message_of(google: Google, work: Callable[[], object]) -> str:
    """Run what must fail, and give its message, which holds no secret."""
    with pytest.raises(ProviderError) as caught:
        work()
    text = str(caught.value)
    private_key = json.loads(google.account.file.read_text())["private_key"].splitlines()[1]
    secrets = [*google.account.tokens, *google.account.assertions, private_key, wire.encode_base64(LAYER_KEY)]
    assert not [secret for secret in secrets if secret[:30] in text + repr(caught.value)]
    assert len(text) < limits.PROVIDER_ERROR_BYTES
    assert "\n" not in text
    return text


def waiting(released: threading.Event) -> Callable[[object], None]:
    def wait(_: object) -> None:
        released.wait(120)

    return wait
