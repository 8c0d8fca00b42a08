"""The snippets in config/ are what containerd of their version reads, and name what clients and skopeo use."""

from __future__ import annotations

import subprocess
import tomllib
from pathlib import Path

import pytest

from tests.processes import ROOT
from tests.system import images

TAR = "io.containerd.ocicrypt.decoder.v1.tar"
GZIP = "io.containerd.ocicrypt.decoder.v1.tar.gzip"
PROGRAMS = {
    "1.6": ("containerd", "containerd-v2.toml"),
    "1.7": (str(ROOT / ".cache/containerd-trixie/usr/bin/containerd"), "containerd-v2.toml"),
    "2.1": (str(ROOT / ".cache/containerd-forky/usr/bin/containerd"), "containerd-v3.toml"),
}


@pytest.mark.parametrize(("program", "snippet"), PROGRAMS.values(), ids=PROGRAMS)
def test_containerd_reads_the_snippet(program: str, snippet: str, tmp_path: Path) -> None:
    command = [program, "--config", str(ROOT / "config" / snippet), "--root", str(tmp_path), "config", "dump"]
    dumped = subprocess.run(command, capture_output=True, text=True, timeout=30, check=False)
    assert dumped.returncode == 0, dumped.stderr
    configuration = tomllib.loads(dumped.stdout)
    processors = configuration["stream_processors"]
    assert set(processors) == {TAR, GZIP}
    assert processors[TAR]["accepts"] == [f"{images.TAR}+encrypted"]
    assert {f"{images.GZIP}+encrypted", f"{images.TAR}+zstd+encrypted", f"{images.DOCKER_GZIP}+encrypted"} == set(
        processors[GZIP]["accepts"]
    )
    for processor in processors.values():
        assert (processor["path"], processor["args"]) == (
            "ctd-decoder",
            ["--decryption-keys-path", "/etc/containerd/ocicrypt/keys"],
        )
    plugin = "io.containerd.cri.v1.images" if "v3" in snippet else "io.containerd.grpc.v1.cri"
    assert configuration["plugins"][plugin]["image_decryption"]["key_model"] == "node"
