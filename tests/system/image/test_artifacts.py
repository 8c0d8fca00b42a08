"""Artifacts that ORAS writes: none of them has an encrypted form, whatever is in its layers."""

from __future__ import annotations

import subprocess
from typing import TYPE_CHECKING

import pytest

from tests.support.image.command import done, image
from tests.support.program.processes import ROOT

if TYPE_CHECKING:
    from pathlib import Path

    from tests.support.keys.keypairs import KeyPair

ORAS = ROOT / ".cache/oci-tools/usr/bin/oras"
KINDS: dict[str, tuple[tuple[str, ...], str]] = {
    "oras": ((), "text/plain"),
    "helm": (
        ("--config", "config.json:application/vnd.cncf.helm.config.v1+json"),
        "application/vnd.cncf.helm.chart.content.v1.tar+gzip",
    ),
    "wasm": (("--config", "config.json:application/vnd.wasm.config.v0+json"), "application/wasm"),
    "nydus": (
        ("--config", "config.json:application/vnd.oci.image.config.v1+json"),
        "application/vnd.oci.image.layer.nydus.blob.v1",
    ),
}


@pytest.mark.parametrize("kind", KINDS)
def test_artifacts_are_refused(kind: str, keys: dict[str, KeyPair], tmp_path: Path) -> None:
    options, media_type = KINDS[kind]
    recipient = ["--recipient", str(keys["p256"].public)]
    (tmp_path / "config.json").write_text("{}")
    (tmp_path / "file").write_bytes(b"the content")
    command = [str(ORAS), "push", "--oci-layout", *options, "artifact:1", f"file:{media_type}"]
    subprocess.run(command, cwd=tmp_path, check=True, capture_output=True, timeout=60)
    place, target = f"oci:{tmp_path}/artifact:1", tmp_path / "target"
    refused = image("encrypt", place, f"oci:{target}", *recipient)
    assert (refused.status, refused.output) == (2, "")
    assert f" is {media_type}\n" in refused.errors
    assert not (target / "index.json").exists()
    permitted = done("encrypt", place, f"oci:{target}", *recipient, "--allow-plain", media_type)
    assert f"{media_type} has no encrypted form" in permitted.errors
    assert image("check", "--require-encrypted", "all", f"oci:{target}").status == 4
