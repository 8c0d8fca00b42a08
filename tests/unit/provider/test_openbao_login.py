"""Tokens of OpenBao that are used again, and that the server has revoked meanwhile."""

from __future__ import annotations

import pytest

from decoder.provider import create
from decoder.provider.errors import ProviderError
from tests.support.keywrap.layers import private_options
from tests.support.network.loopback import Answer, Asked, Loopback, json_answer
from tests.support.program.environment import forget


def test_a_token_that_was_revoked_is_replaced(monkeypatch: pytest.MonkeyPatch) -> None:
    forget(monkeypatch, "BAO_", "VAULT_")
    tokens: list[str] = []
    revoked: set[str] = set()

    def answer(asked: Asked) -> Answer:
        if asked.path == "/v1/auth/approle/login":
            tokens.append(f"token{len(tokens)}")
            return json_answer({"auth": {"client_token": tokens[-1], "lease_duration": 3600}})
        if asked.headers["x-vault-token"] in revoked:
            return json_answer({"errors": ["permission denied"]}, 403)
        return json_answer({"data": {"ciphertext": "vault:v1:AAAA"}})

    with Loopback(answer) as server:
        provider = create("openbao", {"address": server.url, "key": "layers", "role-id": "node"})
        for _ in range(2):
            assert b"vault:v1:AAAA" in provider.wrap(private_options(), [])
        assert tokens == ["token0"]
        revoked.add("token0")
        assert b"vault:v1:AAAA" in provider.wrap(private_options(), [])
        assert tokens == ["token0", "token1"]
        revoked |= {"token1", "token2"}
        with pytest.raises(ProviderError, match="answers Forbidden: 'permission denied'"):
            provider.wrap(private_options(), [])
        assert tokens[-1] == "token2"
