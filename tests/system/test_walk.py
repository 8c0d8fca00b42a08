"""The commands of docs/walk.md, in their order: from two plain images to containers that run only with the key."""

from __future__ import annotations

import os
import re
import subprocess
from collections.abc import Iterator
from pathlib import Path

import pytest

from tests.support.image import images
from tests.support.image.images import GZIP, Layout
from tests.support.node.containerd import KEYS_DIRECTORY, Containerd, ctr_finds_it
from tests.support.node.roots import SUITES, Suite
from tests.support.program.processes import PROGRAM, ROOT
from tests.support.registry import registries

PAGE = (ROOT / "docs/walk.md").read_text()
HOST = "localhost:5000"  # as the page has it
LAYERS = 21
GREETINGS = {"rest": "hello from rest", "www": "hello from www"}
NAMESPACE = f"walk-{os.getpid()}"  # also the name of the cgroup that containerd makes for its containers


def blocks(language: str) -> list[str]:
    return re.findall(rf"^```{language}\n(.*?)^```$", PAGE, re.MULTILINE | re.DOTALL)


KEY_PAIR, BEFORE, PUSH, AFTER, NODE, RUN, REWRAP, CARRY, BACK = blocks("sh")
TABLE_BEFORE, TABLE_AFTER, REFUSAL = blocks("text")


class Shell:
    """A shell where a containerd runs, in the directory with the images."""

    def __init__(self, containerd: Containerd, directory: Path, registry: str) -> None:
        self._containerd = containerd
        self._directory = directory
        self._registry = registry

    def run(self, block: str) -> str:
        """Run a block of the page, which must succeed, and return its output."""
        status, output, errors = self.try_to_run(block)
        assert status == 0, errors
        return output

    def try_to_run(self, block: str) -> tuple[int, str, str]:
        """Run a block of the page up to its first failure, and return status, output and errors."""
        script = f"set -e\ncd '{self._directory}'\n{block.replace(HOST, self._registry)}"
        ended = self._containerd.execute("sh", "-c", script)
        return ended.returncode, ended.stdout, ended.stderr


@pytest.fixture
def plain(tmp_path: Path) -> dict[str, Layout]:
    """The two images: `rest` has as many layers as the table of those who took this walk before."""
    busybox, noise, _ = images.rootfs_layers()
    greet = {name: images.tar_of({"greet": images.script(text)}) for name, text in GREETINGS.items()}
    more = [images.tar_of({f"file-{number}": b"x" * 1000 * number}) for number in range(LAYERS - 3)]
    tars = {
        "rest": [busybox, noise, *more, greet["rest"]],
        "www": [greet["www"], busybox, noise],  # its lowest layer differs, so it shares no snapshot with the other
    }
    return {
        name: images.write_layers(tmp_path / name, [images.packed(tar, GZIP) for tar in each])
        for name, each in tars.items()
    }


@pytest.fixture
def client() -> Iterator[None]:
    with ctr_finds_it(NAMESPACE):
        yield


@pytest.mark.usefixtures("client")
@pytest.mark.parametrize("suite", SUITES, ids=lambda suite: suite.name)
def test_the_walk(suite: Suite, plain: dict[str, Layout], tmp_path: Path) -> None:
    plain_digests = {descriptor["digest"] for layout in plain.values() for descriptor in layout.layers}
    nodes = [tmp_path / name for name in ("without-key", "with-key")]
    for node in nodes:
        node.mkdir()
    with registries.serving(tmp_path / "registry") as registry:
        with Containerd(nodes[0], programs=suite.programs) as containerd:
            shell = Shell(containerd, tmp_path, registry.host)
            shell.run(KEY_PAIR)
            before = shell.run(BEFORE).splitlines()
            shell.run(PUSH)
            *after, verdict = shell.run(AFTER).splitlines()
            check_tables(before, after, plain["rest"])
            assert verdict == f"{LAYERS} of {LAYERS} layers are encrypted; the keys open all {LAYERS}"
            assert registry.blobs.isdisjoint(plain_digests)
            status, _, errors = shell.try_to_run(RUN)
            assert status != 0
            assert REFUSAL.strip() in errors
        with Containerd(nodes[1], programs=suite.programs) as containerd:
            shell = Shell(containerd, tmp_path, registry.host)
            shell.run(NODE)
            output = shell.run(RUN)
            assert all(images.expected_output(greeting) in output for greeting in GREETINGS.values())
            decrypted = [run for run in containerd.decoder_runs if run == f"--decryption-keys-path {KEYS_DIRECTORY}"]
            assert len(decrypted) == sum(len(layout.layers) for layout in plain.values())
            assert containerd.blobs
            assert containerd.blobs.isdisjoint(plain_digests)
            blobs = registry.blobs
            *_, verdict = shell.run(REWRAP).splitlines()
            assert verdict == f"{LAYERS} of {LAYERS} layers are encrypted; the keys open all {LAYERS}"
            assert len(registry.blobs - blobs) == 2  # the manifests
            shell.run(CARRY)
            shell.run(BACK)
    assert Layout(tmp_path / "rest.back").layers == plain["rest"].layers


def test_the_commands_of_readme(plain: dict[str, Layout], tmp_path: Path) -> None:
    """Key pair, encryption, the gate and another recipient, as README's second block of commands has them."""
    block = re.findall(r"^```sh\n(.*?)^```$", (ROOT / "README.md").read_text(), re.MULTILINE | re.DOTALL)[1]
    assert [line.split()[2] for line in block.splitlines()] == ["keygen", "encrypt", "check", "rewrap"]
    with registries.serving(tmp_path / "registry") as registry:

        def run(script: str) -> subprocess.CompletedProcess[str]:
            script = script.replace("registry.example", registry.host)
            path = f"{Path(PROGRAM).parent}:{os.environ['PATH']}"
            command = ["env", f"PATH={path}", "sh", "-ec", script]
            return subprocess.run(command, cwd=tmp_path, capture_output=True, text=True, timeout=120, check=False)

        registries.push(plain["rest"], f"docker://{registry.host}/app:1")
        run("ctd-decoder image keygen other")
        ended = run(block)
        assert ended.returncode == 0, ended.stderr
        gate = next(line for line in block.splitlines() if "--require-encrypted" in line)
        assert run(gate.replace("app:1-encrypted", "app:1")).returncode == 4
        opened = run(f"{gate.partition('#')[0]} --verify --key other.key")
        assert opened.returncode == 0, opened.stderr


def check_tables(before: list[str], after: list[str], layout: Layout) -> None:
    """Compare what layerinfo printed of an image, plain and encrypted, with each other and with the page's tables."""
    assert before[0].split() == TABLE_BEFORE.splitlines()[0].split()
    assert after[0].split() == TABLE_AFTER.splitlines()[0].split()
    assert len(before) == len(after) == LAYERS + 1
    for number, (old, new, descriptor) in enumerate(zip(before[1:], after[1:], layout.layers, strict=True)):
        plain_number, digest, platform, size = old.split()
        assert (plain_number, digest, size) == (str(number), descriptor["digest"], str(descriptor["size"]))
        words = new.split()
        assert [words[0], *words[2:6], words[-1]] == [str(number), platform, size, "jwe", "jwe:", "yes"]
        assert words[1] != digest
