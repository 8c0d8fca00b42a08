"""Every provider of the installed packages finds its libraries, and some do their whole work; deb and rpm."""

from __future__ import annotations

import subprocess
from pathlib import Path
from typing import TYPE_CHECKING

import pytest

from decoder.provider import PROVIDERS
from decoder.provider.client import protocol
from tests.support.aws_server import REGION, kms_client, running_moto, use_test_account

if TYPE_CHECKING:
    from tests.support.packages import Built

OPTIONS = b"private options of a layer"
# What each needs to be created. The request is malformed, so that no key service is asked.
NEEDS = {
    "gcpkms": [],
    "awskms": ["--key", "alias/test", "--region", REGION],
    "azurekv": [],
    "openbao": ["--address", "https://127.0.0.1:1"],
    "local": ["--key", "/nonexistent"],
    "pkcs11": ["--key", "/nonexistent"],
    "attestation-agent": [],
}
_UNPACK = {"deb": "dpkg-deb --extract {package} {root}", "rpm": "cd {root} && rpm2cpio {package} | cpio -idm --quiet"}


@pytest.fixture(scope="module", params=["deb", "rpm"])
def program(request: pytest.FixtureRequest, built: Built, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The program of the packages of one kind, in a root of their own."""
    root = tmp_path_factory.mktemp(request.param)
    packages = sorted(built.directory.glob(f"*.{request.param}"))
    assert len(packages) == 2
    for package in packages:
        command = _UNPACK[request.param].format(package=package, root=root)
        subprocess.run(["sh", "-c", command], check=True, timeout=120)
    return root / "usr/bin/ctd-decoder"


def run(program: Path, provider: str, options: list[str], request: bytes) -> subprocess.CompletedProcess[bytes]:
    command: list[str | Path] = [program, "keyprovider", "run", "--provider", provider, *options]
    return subprocess.run(command, input=request, capture_output=True, timeout=60, check=False)


def test_every_provider_is_here() -> None:
    assert set(NEEDS) == set(PROVIDERS)


@pytest.mark.parametrize("provider", NEEDS)
def test_its_libraries_can_be_imported(provider: str, program: Path) -> None:
    request = protocol.build_request("keyunwrap", b"{}", provider, [])
    result = run(program, provider, NEEDS[provider], request)
    assert result.returncode in (2, 6), result.stderr
    for text in (b"not installed", b"cannot be loaded", b"internal error", b"install the package"):
        assert text not in result.stderr


def test_awskms_wraps_and_unwraps(program: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    use_test_account(monkeypatch, tmp_path)
    with running_moto() as endpoint:
        key = kms_client(endpoint).create_key()["KeyMetadata"]["Arn"]
        options = ["--key", key, "--endpoint", endpoint]
        wrapped = run(program, "awskms", options, protocol.build_request("keywrap", OPTIONS, "aws", []))
        assert wrapped.returncode == 0, wrapped.stderr
        annotation = protocol.parse_reply("keywrap", wrapped.stdout)
        opened = run(program, "awskms", options, protocol.build_request("keyunwrap", annotation, "aws", []))
        assert protocol.parse_reply("keyunwrap", opened.stdout) == OPTIONS


def test_local_wraps_and_unwraps(program: Path, tmp_path: Path) -> None:
    (tmp_path / "key").write_bytes(bytes(range(32)))
    (tmp_path / "key").chmod(0o600)
    options = ["--key", str(tmp_path / "key")]
    wrapped = run(program, "local", options, protocol.build_request("keywrap", OPTIONS, "local", []))
    annotation = protocol.parse_reply("keywrap", wrapped.stdout)
    opened = run(program, "local", options, protocol.build_request("keyunwrap", annotation, "local", []))
    assert protocol.parse_reply("keyunwrap", opened.stdout) == OPTIONS
