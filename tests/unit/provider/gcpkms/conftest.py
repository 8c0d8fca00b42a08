"""Google, imitated by servers on this machine."""

from __future__ import annotations

from typing import TYPE_CHECKING

import pytest

from decoder.provider import create
from tests.support.services.gcp_server import Google, running_google

if TYPE_CHECKING:
    from collections.abc import Iterator

    from decoder.provider.audit import Provider
from tests.support.services.gcpkms_parts import URI


@pytest.fixture(scope="module")
def servers(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Google]:
    with running_google(tmp_path_factory.mktemp("google")) as google:
        yield google


@pytest.fixture
def google(servers: Google) -> Google:
    servers.kms.calls.clear()
    servers.kms.before = lambda _: None
    servers.kms.alter = lambda _: None
    servers.account.answer = servers.account.give_token
    servers.account.assertions.clear()
    return servers


@pytest.fixture
def provider(google: Google) -> Provider:
    return create("gcpkms", google.options(key=URI))
