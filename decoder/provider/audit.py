"""A provider, and its audit: one line of JSON for each operation, without key material."""

from __future__ import annotations

import json
from datetime import UTC, datetime
from time import monotonic
from typing import TYPE_CHECKING, Literal

from decoder import limits
from decoder.node import journal
from decoder.provider.errors import ProviderError

if TYPE_CHECKING:
    from collections.abc import Callable, Sequence

    from decoder.provider import KeyService, Use

Operation = Literal["wrap", "unwrap"]


class Provider:
    """A key service whose operations are all written down.

    Args:
        name: what the audit calls the provider.
        service: does the work.
        report: takes the lines that the journal gets.
    """

    def __init__(self, name: str, service: KeyService, report: Callable[[str], None] | None = None) -> None:
        self.name = name
        self._service = service
        self._report = report

    def wrap(self, options: bytes, parameters: Sequence[str], seconds: float | None = None) -> bytes:
        """Wrap private options.

        Args:
            options: as KeyService takes them.
            parameters: as KeyService takes them.
            seconds: how long it may take; CLOUD_KMS_SECONDS by default.

        Raises:
            ProviderError: it failed, or the key may not be used.
        """
        return self._perform("wrap", options, parameters, seconds)

    def unwrap(self, annotation: bytes, parameters: Sequence[str], seconds: float | None = None) -> bytes:
        """Unwrap private options; the arguments and errors are like those of `wrap`."""
        return self._perform("unwrap", annotation, parameters, seconds)

    def prepare(self, operation: Operation, data: bytes, parameters: Sequence[str]) -> Use:
        """Check a request and prepare to do it. The caller writes it down with `record`.

        Raises:
            ProviderError: it is malformed.
            KeyRefusedError: the key may not be used.
        """
        return (self._service.wrap if operation == "wrap" else self._service.unwrap)(data, parameters)

    def record(self, operation: Operation, keys: Sequence[str], error: BaseException | None, **more: object) -> None:
        """Write the audit line of an operation.

        Args:
            operation: what was asked for.
            keys: the canonical names of its keys, as far as they are known.
            error: why it failed, or None.
            more: further members of the line.
        """
        line: dict[str, object] = {
            "time": datetime.now(UTC).isoformat(timespec="milliseconds").replace("+00:00", "Z"),
            "provider": self.name,
            "operation": operation,
            "key": ", ".join(map(_named, keys)) or _named(getattr(error, "key", "")),
            "outcome": "failed" if error else "ok",
        }
        if error:
            line["reason"] = error.reason if isinstance(error, ProviderError) else "internal"
        text = json.dumps({**line, **more})
        journal.log(text, journal.WARNING if error else journal.INFORMATION)
        if self._report:
            self._report(text)

    def _perform(self, operation: Operation, data: bytes, parameters: Sequence[str], seconds: float | None) -> bytes:
        began = monotonic()
        keys: tuple[str, ...] = ()
        failure: BaseException | None = None
        try:
            use = self.prepare(operation, data, parameters)
            keys = use.keys
            return use.run(limits.CLOUD_KMS_SECONDS if seconds is None else seconds)
        except BaseException as error:
            failure = error
            raise
        finally:
            self.record(operation, keys, failure, milliseconds=round((monotonic() - began) * 1000))


def _named(key: str) -> str:
    """Name a key in one bounded printable line, without the query, where a PKCS#11 URI has its PIN (RFC 7512 §2.4)."""
    return ascii(key.partition("?")[0])[1:-1][: limits.QUOTED_CHARACTERS]
