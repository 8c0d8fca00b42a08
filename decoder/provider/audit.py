"""The audit: one line of JSON for each operation of a provider, without key material."""

from __future__ import annotations

import json
from collections.abc import Callable, Sequence
from datetime import UTC, datetime
from typing import TYPE_CHECKING

from decoder import limits
from decoder.node import journal
from decoder.provider.errors import ProviderError
from decoder.provider.policy import key_in_use

if TYPE_CHECKING:
    from decoder.provider import Provider


class Audited:
    """A provider whose operations are written down, whatever their outcome.

    Args:
        name: what the lines call the provider.
        provider: does the work; the key that it checks against its policy is the one that a line names.
        report: takes the lines that the journal gets.
    """

    def __init__(self, name: str, provider: Provider, report: Callable[[str], None] | None = None) -> None:
        self._name = name
        self._provider = provider
        self._report = report

    def wrap(self, options: bytes, parameters: Sequence[str]) -> bytes:
        """Wrap private options, as the provider does."""
        return self._audit("wrap", self._provider.wrap, options, parameters)

    def unwrap(self, annotation: bytes, parameters: Sequence[str]) -> bytes:
        """Unwrap private options, as the provider does."""
        return self._audit("unwrap", self._provider.unwrap, annotation, parameters)

    def _audit(
        self, operation: str, call: Callable[[bytes, Sequence[str]], bytes], data: bytes, parameters: Sequence[str]
    ) -> bytes:
        before = key_in_use.set("")
        reason = "internal"
        try:
            result = call(data, parameters)
            reason = ""
        except ProviderError as error:
            reason = error.reason
            raise
        finally:
            self._write(operation, key_in_use.get(), reason)
            key_in_use.reset(before)
        return result

    def _write(self, operation: str, key: str, reason: str) -> None:
        line = {
            "time": datetime.now(UTC).isoformat(timespec="milliseconds").replace("+00:00", "Z"),
            "provider": self._name,
            "operation": operation,
            "key": _named(key),
            "outcome": "failed" if reason else "ok",
        }
        if reason:
            line["reason"] = reason
        text = json.dumps(line)
        journal.log(text, journal.WARNING if reason else journal.INFORMATION)
        if self._report:
            self._report(text)


def _named(key: str) -> str:
    """Name a key in one bounded printable line, without the query, where a PKCS#11 URI has its PIN (RFC 7512 §2.4)."""
    return ascii(key.partition("?")[0])[1:-1][: limits.QUOTED_CHARACTERS]
