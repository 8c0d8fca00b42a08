"""The commands of docs/confidential-containers.md, run as they are written."""

from __future__ import annotations

import gzip
import json
import os
import re
import subprocess
import tomllib
from base64 import b64decode
from pathlib import Path

import yaml

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
    layout = Layout(tmp_path / "layout")
    plain = add_image(layout, "amd64", [tar("base"), tar("confidential")])
    publish(layout, {**plain, "annotations": {"org.opencontainers.image.ref.name": "stable"}})
    subprocess.run(
        ["skopeo", "--insecure-policy", "copy", f"oci:{layout.directory}:stable", f"dir:{tmp_path}/nginx"],
        check=True,
        timeout=_SECONDS,
        capture_output=True,
    )
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
    key = (tmp_path / r"repository/default\x2Fimage_key\x2Fnginx").read_bytes()
    options = independent.gcm_open(key, b64decode(packet["iv"]), b64decode(packet["wrapped_data"]))
    digests = [each["digest"] for each in layout.read_json(plain)["layers"]]
    assert json.loads(options)["digest"] == digests[0]
    decrypted = json.loads((tmp_path / "nginx-decrypted/manifest.json").read_bytes())
    assert [each["digest"] for each in decrypted["layers"]] == digests
    deployment = yaml.safe_load((tmp_path / "nginx-encrypted.yaml").read_text())
    pod = deployment["spec"]["template"]
    value = pod["metadata"]["annotations"]["io.katacontainers.config.hypervisor.cc_init_data"]
    initdata = tomllib.loads(gzip.decompress(b64decode(value, validate=True)).decode())
    assert tomllib.loads(initdata["data"]["cdh.toml"])["kbc"]["url"] == "https://kbs.example:8080"
    assert pod["spec"]["runtimeClassName"] == "kata-remote"


def test_what_the_page_shows_of_brokers_is_what_the_program_takes() -> None:
    """These commands need a broker or a cluster; their options at least exist."""
    text = DOCUMENT.read_text()
    for option in set(re.findall(r"--kbs[a-z-]*", text)):
        done = subprocess.run(
            [PROGRAM, "image", "encrypt", "--help"], capture_output=True, text=True, timeout=_SECONDS, check=True
        )
        assert option in done.stdout


def test_every_json_block_is_json() -> None:
    blocks = re.findall(r"^```json\n(.*?)^```$", DOCUMENT.read_text(), re.DOTALL | re.MULTILINE)
    assert len(blocks) == 3
    for block in blocks:
        assert "key-providers" in json.loads(block)
