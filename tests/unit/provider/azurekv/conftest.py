"""Azure, imitated by a server on this machine."""

from __future__ import annotations

from typing import TYPE_CHECKING

import pytest

from decoder.node import journal
from tests.support.keywrap.layers import private_options
from tests.support.program.environment import forget
from tests.support.services.azure_cloud import CLIENT, SECRET, TENANT, Cloud
from tests.support.services.azurekv_parts import KEY, provider

if TYPE_CHECKING:
    from collections.abc import Iterator


@pytest.fixture(scope="module")
def shared_cloud(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Cloud]:
    with Cloud(tmp_path_factory.mktemp("azure")) as cloud:
        yield cloud


@pytest.fixture
def cloud(shared_cloud: Cloud, monkeypatch: pytest.MonkeyPatch) -> Cloud:
    """Run a test with a client secret in the environment, and nothing of whoever runs it."""
    forget(monkeypatch, "AZURE_", "IDENTITY_", "MSI_", "IMDS_")
    client = {"AZURE_TENANT_ID": TENANT, "AZURE_CLIENT_ID": CLIENT, "AZURE_CLIENT_SECRET": SECRET}
    for name, value in (shared_cloud.environment | client).items():
        monkeypatch.setenv(name, value)
    shared_cloud.reset()
    return shared_cloud


@pytest.fixture(autouse=True)
def warnings(monkeypatch: pytest.MonkeyPatch) -> list[str]:
    texts: list[str] = []
    monkeypatch.setattr(journal, "warn", texts.append)
    return texts


@pytest.fixture
def wrapped(cloud: Cloud) -> bytes:
    annotation = provider(cloud, key=KEY).wrap(private_options(), [])
    cloud.proxy.hosts.clear()
    cloud.vault.asked.clear()
    return annotation
