"""The commands of docs/confidential-containers.md, run as they are written."""

from __future__ import annotations

import json
import os
import re
import subprocess
from base64 import b64decode
from pathlib import Path

from tests.support import independent
from tests.support.images import Layout
from tests.support.layouts import add_image, publish, tar
from tests.support.processes import PROGRAM, ROOT

DOCUMENT = ROOT / "docs/confidential-containers.md"
_SECONDS = 120


def commands() -> list[str]:
    """Read the blocks of shell in the walk, the page's first part."""
    walk, found, _ = DOCUMENT.read_text().partition("\n## The key spec\n")
    assert found
    return re.findall(r"^```sh\n(.*?)^```$", walk, re.DOTALL | re.MULTILINE)


def test_walk(tmp_path: Path) -> None:
    layout = Layout(tmp_path / "nginx")
    plain = add_image(layout, "amd64", [tar("base"), tar("confidential")])
    publish(layout, {**plain, "annotations": {"org.opencontainers.image.ref.name": "stable"}})
    path = f"{Path(PROGRAM).parent}:{os.environ['PATH']}"
    shell = ["/bin/bash", "-euo", "pipefail", "-c"]
    printed = [
        subprocess.run(
            [*shell, block],
            cwd=tmp_path,
            stdout=subprocess.PIPE,
            text=True,
            env={**os.environ, "PATH": path},
            timeout=_SECONDS,
            check=True,
        ).stdout
        for block in commands()
    ]
    packet = json.loads(printed[2])
    assert list(packet) == ["kid", "wrapped_data", "iv", "wrap_type"]
    assert (packet["kid"], packet["wrap_type"]) == ("kbs:///default/image_key/nginx", "A256GCM")
    key = (tmp_path / "repository/default/image_key/nginx").read_bytes()
    options = independent.gcm_open(key, b64decode(packet["iv"]), b64decode(packet["wrapped_data"]))
    index = json.loads((tmp_path / "nginx/index.json").read_bytes())
    images = {each["annotations"]["org.opencontainers.image.ref.name"]: each for each in index["manifests"]}
    digests = [each["digest"] for each in layout.read_json(plain)["layers"]]
    assert json.loads(options)["digest"] == digests[0]
    assert [each["digest"] for each in layout.read_json(images["decrypted"])["layers"]] == digests


def test_every_json_block_is_json() -> None:
    blocks = re.findall(r"^```json\n(.*?)^```$", DOCUMENT.read_text(), re.DOTALL | re.MULTILINE)
    assert len(blocks) == 3
    for block in blocks:
        assert "key-providers" in json.loads(block)
