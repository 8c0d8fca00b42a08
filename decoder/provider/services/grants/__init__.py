"""Grants: the key of an image comes from a registry, encrypted to this node by an owner (docs/grants.md)."""

from __future__ import annotations

from typing import TYPE_CHECKING

from decoder import limits
from decoder.errors import ImageError
from decoder.provider import Option
from decoder.provider.errors import ProviderError

if TYPE_CHECKING:
    from collections.abc import Mapping

    from decoder.provider.policy import KeyPolicy
    from decoder.provider.services.grants.service import Grants

OPTIONS = (
    Option("key", "a file with the node's private key, RSA or EC, which only its owner may read"),
    Option("certificate", "a file with the certificate of that key, and its issuers (default: those in the key file)"),
    Option("name", "the node's name in requests (default: its host name)"),
    Option(
        "owner", "PATTERN=FILE: an owner's public key, whose grants are accepted for matching repositories", many=True
    ),
    Option("requests", "the repository for requests, HOST/REPO (default: that of the grants with -requests added)"),
    Option("wait", f"how many seconds to wait for a grant (default 0, at most {limits.GRANTS_WAIT_SECONDS:.0f})"),
    Option("authfile", "a file with logins at registries (default: those of docker login and of the kubelet)"),
)


def create(options: Mapping[str, str], policy: KeyPolicy) -> Grants:
    """Create the provider.

    Raises:
        UsageError: an option is missing or malformed.
        ProviderError: a file cannot be used, or the client of registries is not installed.
    """
    try:
        from decoder.provider.services.grants import service
    except ImageError as error:
        raise ProviderError(str(error)) from error
    return service.create(options, policy)
