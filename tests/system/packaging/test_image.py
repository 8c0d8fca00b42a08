"""The image of the program: what is in it, and that containerd runs it as users of CI do."""

from __future__ import annotations

import json
import shutil
import subprocess
import tarfile
from collections.abc import Iterator
from itertools import count
from pathlib import Path
from typing import TYPE_CHECKING, Any

import pytest

from decoder import __version__
from tests.support.image import images
from tests.support.keywrap.layers import pem, public_pem, rsa_key
from tests.support.node.containerd import Containerd
from tests.support.packaging.packages import make_image
from tests.support.program.processes import ROOT

if TYPE_CHECKING:
    from tests.support.packaging.packages import Built

SHELL = f"{__version__}-shell"
USER = "65532:65532"
SECONDS = 300
NUMBERS = count()  # ctr leaves the snapshots of containers behind


class Archive:
    """An OCI archive, read without any of the code that wrote it."""

    def __init__(self, archive: tarfile.TarFile) -> None:
        self._archive = archive

    def named(self) -> dict[str, Any]:
        """Return the index of each tag."""
        found = json.load(self._open("index.json"))["manifests"]
        return {item["annotations"]["org.opencontainers.image.ref.name"]: self.blob(item) for item in found}

    def blob(self, descriptor: dict[str, Any]) -> Any:
        assert descriptor["size"] == self._archive.getmember(self._path(descriptor)).size
        return json.load(self._open(self._path(descriptor)))

    def files(self, descriptor: dict[str, Any]) -> dict[str, tarfile.TarInfo]:
        with tarfile.open(fileobj=self._open(self._path(descriptor)), mode="r:gz") as layer:
            return {member.name: member for member in layer.getmembers()}

    def _path(self, descriptor: dict[str, Any]) -> str:
        return f"blobs/{descriptor['digest'].replace(':', '/')}"

    def _open(self, name: str) -> Any:
        return self._archive.extractfile(name)


@pytest.fixture(scope="module")
def archive(image_archive: Path) -> Iterator[Archive]:
    with tarfile.open(image_archive) as opened:
        yield Archive(opened)


@pytest.mark.parametrize("tag", [__version__, SHELL])
def test_it_is_for_both_architectures_and_no_root(tag: str, archive: Archive) -> None:
    manifests = archive.named()[tag]["manifests"]
    assert [item["platform"]["architecture"] for item in manifests] == ["amd64", "arm64"]
    for item in manifests:
        config = archive.blob(archive.blob(item)["config"])
        assert (config["architecture"], config["os"]) == (item["platform"]["architecture"], "linux")
        assert (config["config"]["User"], config["config"]["Entrypoint"]) == (USER, ["/usr/bin/ctd-decoder"])


def test_there_is_a_shell_in_one_of_them_only(archive: Archive) -> None:
    tags = archive.named()
    assert set(tags) == {__version__, SHELL}
    for tag, index in tags.items():
        for item in index["manifests"]:
            files = {name: it for layer in archive.blob(item)["layers"] for name, it in archive.files(layer).items()}
            assert ("bin/sh" in files) == (tag == SHELL)
            assert files["etc/ssl/certs/ca-certificates.crt"].size > 100_000
            assert {(member.uid, member.gid) for name, member in files.items() if name != "home/nonroot"} == {(0, 0)}
            assert not [name for name, member in files.items() if member.mode & 0o6000]
            assert not [
                name for name, member in files.items() if member.mode & 0o022 and not member.issym() and name != "tmp"
            ]


def test_the_same_packages_make_the_same_image(
    built: Built, built_arm64: Built, image_archive: Path, tmp_path: Path
) -> None:
    for package in (*built.directory.glob("*.deb"), *built_arm64.directory.glob("*.deb")):
        shutil.copy(package, tmp_path)
    assert make_image(tmp_path, tmp_path / "again").read_bytes() == image_archive.read_bytes()


@pytest.mark.parametrize(
    ("names", "said"),
    [
        ((), "has no packages: run packaging/build"),
        (
            ("ctd-decoder_1_amd64.deb", "ctd-decoder_2_amd64.deb"),
            "does not hold one version of the two packages for amd64",
        ),
        (("ctd-decoder_1_amd64.deb", "ctd-decoder-providers_2_amd64.deb"), "does not hold one version"),
    ],
)
def test_packages_that_do_not_fit_make_no_image(names: tuple[str, ...], said: str, tmp_path: Path) -> None:
    for name in names:
        (tmp_path / name).touch()
    made = subprocess.run(
        [ROOT / "packaging/image", "--packages", tmp_path], capture_output=True, text=True, timeout=SECONDS, check=False
    )
    assert made.returncode == 1
    assert said in made.stderr
    assert sorted(path.name for path in tmp_path.iterdir()) == sorted(names)


# -- containerd runs it


@pytest.fixture(scope="module")
def node(image_archive: Path, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Containerd]:
    with Containerd(tmp_path_factory.mktemp("node")) as containerd:
        imported = containerd.ctr("images", "import", "--base-name", "tool", str(image_archive))
        assert imported.returncode == 0, imported.stderr
        yield containerd


def run(node: Containerd, tag: str, work: Path, *command: str) -> subprocess.CompletedProcess[str]:
    """Run a container that sees a directory as /work."""
    mount = f"type=bind,src={work},dst=/work,options=rbind:rw"
    options = ("--rm", "--read-only", "--cwd", "/work", "--mount", mount, "--cgroup", "/ctd-decoder-image-test")
    return node.ctr("run", *options, f"tool:{tag}", f"tool-{next(NUMBERS)}", *command)


def test_it_encrypts_and_decrypts_an_image_in_a_mounted_directory(node: Containerd, tmp_path: Path) -> None:
    images.write_image(tmp_path / "plain", images.GZIP)
    (tmp_path / "public.pem").write_bytes(public_pem(rsa_key()))
    (tmp_path / "key.pem").write_bytes(pem(rsa_key()))
    (tmp_path / "key.pem").chmod(0o600)
    for path in (tmp_path, tmp_path / "key.pem"):
        shutil.chown(path, *map(int, USER.split(":")))
    program, name = "/usr/bin/ctd-decoder", images.NAME
    encrypted = run(
        node, __version__, tmp_path, program, "image", "encrypt", f"oci:plain:{name}", f"oci:encrypted:{name}",
        "--recipient", "jwe:public.pem",
    )  # fmt: skip
    assert encrypted.returncode == 0, encrypted.stderr
    assert all(layer["mediaType"].endswith("+encrypted") for layer in images.Layout(tmp_path / "encrypted").layers)
    assert (tmp_path / "encrypted").stat().st_uid == int(USER.split(":", maxsplit=1)[0])
    back = run(
        node, __version__, tmp_path, program, "image", "decrypt", f"oci:encrypted:{name}", f"oci:back:{name}",
        "--key", "key.pem",
    )  # fmt: skip
    assert back.returncode == 0, back.stderr
    plain, again = (images.Layout(tmp_path / directory) for directory in ("plain", "back"))
    assert [layer["digest"] for layer in again.layers] == [layer["digest"] for layer in plain.layers]


def test_its_libraries_of_key_services_can_be_loaded(node: Containerd, tmp_path: Path) -> None:
    script = "echo '{}' | ctd-decoder keyprovider run --provider awskms --key alias/a"
    shown = run(node, SHELL, tmp_path, "/bin/sh", "-c", script)
    assert "neither keywrap nor keyunwrap" in shown.stderr  # what is read once the libraries are loaded


def test_the_shell_is_there_for_scripts(node: Containerd, tmp_path: Path) -> None:
    shown = run(node, SHELL, tmp_path, "/bin/sh", "-c", "id -u; ctd-decoder --version; echo $HOME")
    assert shown.stdout.split("\n")[:3] == ["65532", f"ctd-decoder {__version__}", "/home/nonroot"], shown.stderr
