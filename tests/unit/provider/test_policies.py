"""Creating a provider changes nothing of what it is given."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

import pytest

from decoder.provider.policy import KeyPolicy
from decoder.provider.services import azurekv, openbao, pkcs11

CREATE: dict[str, tuple[Callable[[dict[str, str], KeyPolicy], object], str, dict[str, str]]] = {
    "openbao": (openbao.create, "image", {"address": "https://bao.example:8200", "token-file": "/run/token"}),
    "azurekv": (azurekv.create, "https://Name.vault.azure.net/keys/image", {}),
    "pkcs11": (pkcs11.create, "/dev/null", {"key": "/dev/null"}),
}


@pytest.mark.parametrize("name", CREATE)
def test_the_policy_is_as_it_was(name: str, tmp_path: Path) -> None:
    create, key, options = CREATE[name]
    if name == "pkcs11":
        key = str(tmp_path / "key.yaml")
        Path(key).write_text("pkcs11:\n  uri: 'pkcs11:token=t;object=k'\n")
        options = {"key": key}
    policy, before = KeyPolicy(key, ["openbao://*"]), dict(options)
    create(options, policy)
    assert (policy.configured, policy.patterns) == (key, ("openbao://*",))
    assert options == before
