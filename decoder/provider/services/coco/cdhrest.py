"""Source `cdh-rest:URL`: resources from the Confidential Data Hub's REST interface, such as http://127.0.0.1:8006."""

from __future__ import annotations

from collections.abc import Mapping

from decoder import limits
from decoder.keywrap.kid import PLUGIN, ResourceId
from decoder.provider.address import base_url
from decoder.provider.errors import ProviderError
from decoder.provider.services.coco.apiserver import LOOK_AT_THE_HUB, AnsweredError, get, reach


def create(where: str, options: Mapping[str, str]) -> CdhRest:
    """Create the source.

    Args:
        where: the URL of the server.
        options: ignored.

    Raises:
        UsageError: the URL is malformed, or neither https nor on the loopback interface.
    """
    return CdhRest(base_url(where, "the URL of cdh-rest"))


class CdhRest:
    """A `KeySource`."""

    def __init__(self, url: str) -> None:
        self._url = url

    def describe(self) -> str:
        """Return the name of the source for messages."""
        return f"cdh-rest:{self._url}"

    def reach(self, seconds: float) -> None:
        """Check that the server answers; see `Reachable`."""
        reach(self._url, seconds)

    def key(self, resource: ResourceId, seconds: float) -> bytes:
        """Fetch a resource of the plugin `resource`, the only one that this interface offers; see `KeySource`."""
        if resource.plugin != PLUGIN or resource.query:
            raise ProviderError(f"it only has resources of the plugin {PLUGIN}, without a query")
        try:
            data = get(self._url, f"/cdh/resource/{resource.path}", seconds)
        except AnsweredError as error:
            raise ProviderError(f"{error} ({LOOK_AT_THE_HUB})") from error
        if len(data) > limits.COCO_RESOURCE_BYTES:
            raise ProviderError(f"the resource is longer than {limits.COCO_RESOURCE_BYTES} bytes")
        return data
