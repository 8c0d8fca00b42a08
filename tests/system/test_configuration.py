"""The snippets in config/ are what containerd of their version reads, and name what clients and skopeo use."""

from __future__ import annotations

import subprocess
import tomllib
from pathlib import Path
from typing import TYPE_CHECKING

import pytest

from tests.support.image import images
from tests.support.node.containerd import CONFIGURATION, Containerd
from tests.support.node.roots import SUITES, Suite
from tests.support.program.processes import PROGRAM, ROOT

if TYPE_CHECKING:
    from tests.support.image.images import Layout
    from tests.support.keys.keypairs import KeyPair

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
    dumped = subprocess.run(command, capture_output=True, text=True, timeout=120, check=False)
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
    assert configuration["plugins"][plugin]["image_decryption"]["key_model"] == "node"  # containerd's default


@pytest.mark.parametrize(("program", "snippet"), PROGRAMS.values(), ids=PROGRAMS)
def test_a_configuration_that_imports_the_snippet_keeps_its_own_settings(
    program: str, snippet: str, tmp_path: Path
) -> None:
    version, plugin = (3, "io.containerd.cri.v1.images") if "v3" in snippet else (2, "io.containerd.grpc.v1.cri")
    own = tmp_path / "config.toml"
    own.write_text(
        f'version = {version}\nimports = ["{ROOT / "config" / snippet}"]\n'
        f'[plugins."{plugin}"]\nmax_concurrent_downloads = 7\n'
        f'[stream_processors."{GZIP}"]\naccepts = ["{images.GZIP}+encrypted"]\npath = "/nonexistent"\n'
    )
    command = [program, "--config", str(own), "--root", str(tmp_path), "config", "dump"]
    dumped = subprocess.run(command, capture_output=True, text=True, timeout=120, check=True)
    configuration = tomllib.loads(dumped.stdout)
    assert configuration["plugins"][plugin]["max_concurrent_downloads"] == 7
    assert configuration["stream_processors"][GZIP]["path"] == "ctd-decoder"
    assert len(configuration["stream_processors"][GZIP]["accepts"]) == 3


@pytest.fixture(scope="module")
def compressed(
    plain: dict[str, Layout], keys: dict[str, KeyPair], tmp_path_factory: pytest.TempPathFactory
) -> dict[str, Layout]:
    """The encrypted image by the compression of its layers."""
    directory = tmp_path_factory.mktemp("compressed")
    zstd = directory / "plain"
    _run(
        *("skopeo", "--insecure-policy", "copy", "--dest-compress", "--dest-compress-format", "zstd"),
        *(f"oci:{plain[images.TAR].directory}:{images.NAME}", f"oci:{zstd}:{images.NAME}"),
    )
    sources = {"tar": plain[images.TAR].directory, "gzip": plain[images.GZIP].directory, "zstd": zstd}
    for name, source in sources.items():
        target = directory / name
        _run(
            *(PROGRAM, "image", "encrypt", f"oci:{source}:{images.NAME}", f"oci:{target}:{images.NAME}"),
            *("--recipient", f"jwe:{keys['p256'].public}"),
        )
    return {name: images.Layout(directory / name) for name in sources}


@pytest.mark.parametrize("compression", ["tar", "gzip", "zstd"])
@pytest.mark.parametrize("suite", SUITES, ids=lambda suite: suite.name)
def test_images_run_with_the_snippet(
    suite: Suite, compression: str, compressed: dict[str, Layout], keys: dict[str, KeyPair], tmp_path: Path
) -> None:
    """Read as containerd reads drop-ins; the configuration itself tells no more than where this test's things are."""
    layout = compressed[compression]
    suffix = {"tar": "", "gzip": "+gzip", "zstd": "+zstd"}[compression]
    assert {layer["mediaType"] for layer in layout.layers} == {f"{images.TAR}{suffix}+encrypted"}
    version, snippet = (3, "conf.d/ctd-decoder.toml") if suite.version >= (2, 0) else (2, "containerd-v2.toml")
    drop_ins = tmp_path / "conf.d"
    drop_ins.mkdir()
    (drop_ins / "ctd-decoder.toml").write_bytes((ROOT / "config" / snippet).read_bytes())
    configuration = CONFIGURATION.replace("version = 2\n", f'version = {version}\nimports = ["{drop_ins}/*.toml"]\n')
    with Containerd(tmp_path, keys["p256"].private, programs=suite.programs, configuration=configuration) as containerd:
        assert set(containerd.configuration["stream_processors"][GZIP]["accepts"]) == set(
            tomllib.loads((ROOT / "config" / snippet).read_text())["stream_processors"][GZIP]["accepts"]
        )
        with_payload = containerd.run(layout, "--skip-decrypt-auth")
        assert (with_payload.returncode, with_payload.stdout) == (0, images.expected_output()), with_payload.stderr
        runs = len(containerd.decoder_runs)
        assert runs == len(layout.layers)
        imported = containerd.import_image(layout, namespace="other")
        assert imported.returncode == 0, imported.stderr
        without = containerd.run_stock(namespace="other")
        assert (without.returncode, without.stdout) == (0, images.expected_output()), without.stderr
        assert len(containerd.decoder_runs) == 2 * runs


def _run(*command: str | Path) -> None:
    result = subprocess.run(command, capture_output=True, text=True, timeout=60, check=False)
    assert result.returncode == 0, result.stderr
