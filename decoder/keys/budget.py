"""The time and the attempts that one layer may take, over all of its descriptors, wrapped keys and keyproviders."""

from __future__ import annotations

from time import monotonic
from typing import TYPE_CHECKING

from decoder import limits
from decoder.errors import WrappedKeyError

if TYPE_CHECKING:
    from collections.abc import Callable


class Budget:
    """The time and the attempts that are left to open one layer.

    Args:
        longest_seconds: returns the longest time limit of the configured keyproviders, 0 if there are none. It is
            called late, so that a layer that opens at once does not pay for it.

    Attributes:
        waiting: how many candidates share the remaining time; see `seconds`.
    """

    def __init__(self, longest_seconds: Callable[[], float]) -> None:
        self.waiting = 1
        self._started = monotonic()
        self._longest_seconds = longest_seconds
        self._limit: float | None = None
        self._attempts = limits.UNWRAP_ATTEMPTS

    @property
    def spent(self) -> int:
        """The number of attempts so far."""
        return limits.UNWRAP_ATTEMPTS - self._attempts

    def check(self) -> None:
        """Check that time and attempts are left.

        Raises:
            WrappedKeyError: the layer has used up its time or its attempts.
        """
        elapsed = monotonic() - self._started
        if elapsed > limits.UNWRAP_EXTRA_SECONDS and elapsed > self._seconds():  # the first test spares the second
            raise self._given_up()
        if self._attempts <= 0:
            raise WrappedKeyError(f"given up: no key opened the layer in {limits.UNWRAP_ATTEMPTS} attempts")

    def spend(self, attempts: int = 1) -> None:
        """Count attempts: operations with a private key, or keys that turned out to be unusable.

        Raises:
            WrappedKeyError: the layer had used up its time or its attempts before.
        """
        self.check()
        self._attempts -= attempts

    def seconds(self, wanted: float) -> float:
        """Return how many of the wanted seconds a call to a keyprovider or a token may take.

        That is at most the call's share of the remaining time, so that a slow candidate leaves time for those that
        wait; but never less than UNWRAP_LEAST_SECONDS while so much remains.

        Raises:
            WrappedKeyError: the layer has used up its time or its attempts.
        """
        self.check()
        left = self._started + self._seconds() - monotonic()
        share = round(min(left, max(left / self.waiting, limits.UNWRAP_LEAST_SECONDS)), 1)
        if share <= 0:
            raise self._given_up()
        return min(wanted, share)

    def _given_up(self) -> WrappedKeyError:
        return WrappedKeyError(f"given up: no key opened the layer within {self._seconds():.0f} seconds")

    def _seconds(self) -> float:
        if self._limit is None:
            longest = self._longest_seconds()
            self._limit = longest + limits.UNWRAP_EXTRA_SECONDS if longest else limits.UNWRAP_SECONDS
        return self._limit
