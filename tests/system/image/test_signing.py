"""Signatures of encrypted images by cosign and notation, as docs/images.md has them, and what rewrap says of them."""

from __future__ import annotations

import json
import os
import re
import shutil
import subprocess
from collections.abc import Iterator
from pathlib import Path
from typing import TYPE_CHECKING

import pytest

from tests.support.image import layouts
from tests.support.image.command import done
from tests.support.program.processes import PROGRAM, ROOT
from tests.support.registry import registries

if TYPE_CHECKING:
    from tests.support.registry.registries import Registry

BLOCKS = re.findall(r"^```sh\n(.*?)```", (ROOT / "docs/images.md").read_text(), re.MULTILINE | re.DOTALL)
TOOLS = ROOT / ".cache/oci-tools/usr/bin"
HOST = "registry.example"  # as the page has it
POLICY = {
    "name": "app",
    "registryScopes": ["*"],
    "signatureVerification": {"level": "strict"},
    "trustStores": ["ca:app"],
    "trustedIdentities": ["*"],
}
# How cosign has signed until now, below a tag of its own.
COSIGN_TAG = "cosign sign --key cosign.key --use-signing-config=false --tlog-upload=false --new-bundle-format=false"
_SECONDS = 120


class Signer:
    """A directory with the plain image `app` and all keys, where commands of the page run."""

    def __init__(self, directory: Path, registry: Registry) -> None:
        self._directory = directory
        self._host = registry.host
        layouts.recorded(directory / "app")
        self.run("ctd-decoder image keygen app-key")
        self.run("cosign generate-key-pair")
        self.run("cosign signing-config create --out offline.json")
        self.run("notation cert generate-test --default app")
        (directory / "policy.json").write_text(json.dumps({"version": "1.0", "trustPolicies": [POLICY]}))
        self.run("notation policy import policy.json")
        configuration = directory / "notation/config.json"
        configuration.write_text(json.dumps({"insecureRegistries": [registry.host]}))

    def run(self, block: str) -> str:
        """Run commands, which must succeed; nothing outside this machine is reached."""
        environment = {
            **os.environ,
            "PATH": f"{Path(PROGRAM).parent}:{TOOLS}:{os.environ['PATH']}",
            "HOME": str(self._directory),
            "XDG_CONFIG_HOME": str(self._directory),
            "COSIGN_PASSWORD": "a password",
            "HTTPS_PROXY": "http://127.0.0.1:1",
        }
        ended = subprocess.run(
            ["sh", "-ec", block.replace(HOST, self._host)],
            cwd=self._directory,
            env=environment,
            stdin=subprocess.DEVNULL,
            capture_output=True,
            text=True,
            timeout=_SECONDS,
            check=False,
        )
        assert ended.returncode == 0, ended.stderr
        return ended.stdout + ended.stderr

    @property
    def digest(self) -> str:
        return (self._directory / "digest").read_text().strip()

    @property
    def key(self) -> list[str]:
        return ["--key", str(self._directory / "app-key.key")]


@pytest.fixture(scope="module")
def signer(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Signer]:
    directory = tmp_path_factory.mktemp("signing")
    with registries.serving(tmp_path_factory.mktemp("registry")) as registry:
        yield Signer(directory, registry)
        shutil.rmtree(directory)


def test_signatures_of_the_encrypted_image(signer: Signer) -> None:
    """The commands of the page, and then rewrap: it names all three signatures, and what it has left is unsigned."""
    said = signer.run(next(block for block in BLOCKS if "cosign" in block))
    assert "The signatures were verified against the specified public key" in said
    assert f"Successfully verified signature for {signer._host}/app@{signer.digest}" in said
    signer.run(f"{COSIGN_TAG} {HOST}/app@{signer.digest}")
    place = f"docker://{signer._host}/app:1"
    signer.run("ctd-decoder image keygen --type p256 ops-key")
    added = ["--recipient", str(signer._directory / "ops-key.pub")]
    dry = done("rewrap", "--dry-run", place, *added, *signer.key, "--json").value
    ended = done("rewrap", place, *added, *signer.key)
    (line,) = [line for line in ended.errors.splitlines() if "must be created again" in line]
    (told,) = [remark for remark in dry["remarks"] if "must be created again" in remark]
    assert told in line
    assert line.count("sha256:") == 2
    assert "application/vnd.cncf.notary.signature" in line
    assert f"the tag {signer.digest.replace(':', '-')}.sig" in line
    (image,) = dry["images"]
    assert image["digest"] == signer.digest
    new = done("rewrap", place, *added, *signer.key, "--json").value["images"][0]["digest"]
    assert new != signer.digest
    with pytest.raises(AssertionError, match="no signature"):
        signer.run(f"notation verify {HOST}/app@{new}")
    signer.run(f"cosign sign --key cosign.key --signing-config offline.json {HOST}/app@{new}")
    signer.run(f"cosign verify --key cosign.pub --insecure-ignore-tlog {HOST}/app@{new}")


def test_signatures_of_the_plain_image_are_named(signer: Signer) -> None:
    """All tags of a repository are looked at, those of signatures too, and these are not images."""
    plain = f"docker://{signer._host}/plain:1"
    signer.run(f"skopeo --insecure-policy copy --dest-tls-verify=false --all oci:app {plain}")
    inspect = f"skopeo inspect --tls-verify=false --format '{{{{.Digest}}}}' {plain}"
    digest = signer.run(inspect).strip()
    signer.run(f"notation sign {HOST}/plain@{digest}")
    signer.run(f"{COSIGN_TAG} {HOST}/plain@{digest}")
    recipient = ["--recipient", str(signer._directory / "app-key.pub")]
    ended = done("encrypt", plain, f"docker://{signer._host}/plain:encrypted", *recipient)
    (line,) = [line for line in ended.errors.splitlines() if "not copied" in line]
    assert "application/vnd.cncf.notary.signature" in line
    assert f"the tag {digest.replace(':', '-')}.sig" in line
    listed = done("rewrap", "--dry-run", f"docker://{signer._host}/plain", *recipient, *signer.key, "--json").value
    assert sorted(each["action"] for each in listed["images"]) == ["not encrypted"] * 3 + ["unchanged"]
