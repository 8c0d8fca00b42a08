"""JWE parts for tests."""

from __future__ import annotations

import json
from typing import Any

from jwcrypto.jwk import JWK


def public_jwk(key: Any, **members: object) -> bytes:
    exported = json.loads(JWK.from_pyca(key.public_key()).export())
    del exported["kid"]
    return json.dumps({**exported, **members}).encode()
