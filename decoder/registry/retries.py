"""Repeating requests: the failures after which to repeat, and the pauses."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from itertools import islice
from time import sleep
from typing import TYPE_CHECKING

from decoder import limits
from decoder.node import network
from decoder.registry.hosts import NotTlsError, UnreachableError

if TYPE_CHECKING:
    from decoder.registry.http import Response

_BUSY = network.BUSY_STATUSES | {500}  # registries and the proxies before them also use it for short outages


def pauses() -> Iterator[float]:
    """Yield the pauses before further attempts, in seconds; REGISTRY_ATTEMPTS - 1 of them."""
    longest = limits.REGISTRY_RETRY_AFTER_SECONDS
    return islice(network.pauses(2 * limits.REGISTRY_RETRY_SECONDS, longest), limits.REGISTRY_ATTEMPTS - 1)


def with_retries(attempt: Callable[[], Response]) -> Response:
    """Send a request that may be repeated, with growing pauses while the host is busy or cannot be reached.

    Args:
        attempt: sends the request once.

    Returns:
        The reply; after the last attempt it may still say that the host is busy.

    Raises:
        UnreachableError: the last attempt got no reply, either.
    """
    for pause in pauses():
        try:
            response = attempt()
        except NotTlsError:
            raise
        except UnreachableError:
            sleep(pause)
            continue
        if not is_busy(response):
            return response
        response.close()
        asked = min(network.retry_after(response.headers.get("Retry-After")), limits.REGISTRY_RETRY_AFTER_SECONDS)
        sleep(max(pause, asked))
    return attempt()


def is_busy(response: Response) -> bool:
    """Check whether the same request may succeed a little later."""
    return response.status in _BUSY
