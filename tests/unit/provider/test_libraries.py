"""The library of a key service is loaded when the service is used, and not before; the message names its extra."""

from __future__ import annotations

import subprocess
import sys

import pytest

from tests.support.program.processes import ROOT

_IS_NOT_LOADED = """
import sys
from decoder.provider import options_of
options_of(sys.argv[1])
print([name for name in sys.argv[2:] if name in sys.modules])
"""
_IS_ABSENT = """
import sys
from decoder.provider import create
from decoder.provider.errors import ProviderError
sys.modules[sys.argv[2]] = None
try:
    create(sys.argv[1], dict(option.split("=") for option in sys.argv[3:]))
except ProviderError as error:
    print(error)
"""


def output_of(program: str, *arguments: str) -> str:
    command = [sys.executable, "-c", program, *arguments]
    return subprocess.run(command, capture_output=True, text=True, check=True, timeout=120, cwd=ROOT).stdout


@pytest.mark.parametrize(
    ("service", "libraries"),
    [
        ("awskms", ["boto3", "botocore", "urllib3"]),
        ("azurekv", ["azure", "requests"]),
        ("gcpkms", ["grpc", "google.auth", "google.cloud.kms_v1", "requests"]),
        ("openbao", ["hvac", "requests"]),
    ],
)
def test_a_library_is_loaded_when_the_service_is_used(service: str, libraries: list[str]) -> None:
    assert output_of(_IS_NOT_LOADED, service, *libraries) == "[]\n"


@pytest.mark.parametrize(
    ("service", "library", "options", "extra"),
    [
        ("awskms", "botocore.session", [], "aws"),
        ("azurekv", "azure.identity", ["key=https://layers.vault.azure.net/keys/layers"], "azure"),
        ("gcpkms", "google.cloud.kms_v1", [], "gcp"),
        ("openbao", "hvac", ["address=https://127.0.0.1"], "openbao"),
        ("attestation-agent", "requests", ["source=kbs:https://127.0.0.1"], "coco"),
    ],
)
def test_an_absent_library_is_named_by_its_extra(service: str, library: str, options: list[str], extra: str) -> None:
    assert f"-m pip install 'ctd-decoder[{extra}] @ " in output_of(_IS_ABSENT, service, library, *options)
