"""The REST server in a guest (api-server-rest), which speaks for its agents on the loopback interface."""

from __future__ import annotations

from typing import TYPE_CHECKING

from decoder import limits
from decoder.extras import missing
from decoder.provider.errors import ProviderError, excerpt

if TYPE_CHECKING:
    from requests import Response

LOOK_AT_THE_HUB = "look at the log of the guest's data hub: an absent key and a denied one get the same answer"


class AnsweredError(ProviderError):
    """The server answered with an error."""


def get(url: str, target: str, seconds: float) -> bytes:
    """Send a GET request; no redirect is followed, and plain HTTP uses no proxy.

    Args:
        url: the URL of the server, as `base_url` returns it.
        target: the path, which starts with a slash, and the query.
        seconds: the time limit.

    Returns:
        At most PROVIDER_MESSAGE_BYTES.

    Raises:
        AnsweredError: the server answers with an error, which is quoted.
        ProviderError: requests is not installed, the server cannot be reached, or answers with a redirect or too much.
    """
    response = _ask(url + target, seconds, "")
    if response.status_code != 200:
        said = response.content[: limits.PROVIDER_ERROR_BYTES].decode(errors="replace")
        raise AnsweredError(f"it answered with status {response.status_code}: {excerpt(said)}")
    return response.content


def reach(url: str, seconds: float, ca_file: str = "") -> None:
    """Check that a server answers, with any status and content.

    Args:
        url: the URL of the server, as `base_url` returns it.
        seconds: the time limit.
        ca_file: the certificates to accept, instead of the system's.

    Raises:
        ProviderError: the server does not answer, or its certificate is not accepted.
    """
    _ask(f"{url}/", seconds, ca_file)


def _ask(url: str, seconds: float, ca_file: str) -> Response:
    try:
        from decoder.provider.services.web import Web
    except ImportError as error:
        raise ProviderError(missing("coco", error)) from error
    return Web(ca_file).within(seconds, lambda session: session.get(url))
