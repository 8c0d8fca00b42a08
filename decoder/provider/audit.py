"""A provider: a key service, with envelopes and with an audit of one line of JSON for each operation."""

from __future__ import annotations

import json
from datetime import UTC, datetime
from hashlib import sha256
from time import monotonic
from typing import TYPE_CHECKING, Literal

from decoder import limits
from decoder.errors import quoted
from decoder.node import journal
from decoder.provider import envelope
from decoder.provider.envelope import check_kek, is_kek
from decoder.provider.errors import NoKekServiceError, ProviderError

if TYPE_CHECKING:
    from collections.abc import Callable, Sequence

    from decoder.provider import Checked, KeyService, Use
    from decoder.provider.envelope import Envelope
    from decoder.provider.keks import Keks

    Observer = Callable[["Operation", float, bool], None]

Operation = Literal["wrap", "unwrap", "wrap-kek", "unwrap-kek"]


class Provider:
    """A key service that also opens envelopes, and records every operation in the audit.

    Args:
        name: the provider's name in the audit and in envelopes.
        service: the key service.
        report: writes each line to standard error, too, unless that is the journal.
        keks: keeps opened key-encryption keys; by default none is kept.
        identity: returns bytes that identify the configuration and the credentials, on which an opened key depends.
        observe: is called after each call of the service, with the operation, its seconds, and whether it succeeded.
    """

    def __init__(
        self,
        name: str,
        service: KeyService,
        report: Callable[[str], None] | None = None,
        keks: Keks | None = None,
        identity: Callable[[], bytes] = bytes,
        observe: Observer | None = None,
    ) -> None:
        self.name = name
        self._service = service
        self._report = report
        self._keks = keks
        self._identity = identity
        self._observe = observe

    def wrap(self, options: bytes, parameters: Sequence[str], seconds: float | None = None) -> bytes:
        """Wrap private options.

        Args:
            options: the private options; see `KeyService.wrap`.
            parameters: the key to use; see `KeyService.wrap`.
            seconds: how long it may take; CLOUD_KMS_SECONDS by default.

        Raises:
            ProviderError: the service failed, or the key may not be used.
        """
        return self.perform("wrap", options, parameters, seconds)

    def unwrap(self, annotation: bytes, parameters: Sequence[str], seconds: float | None = None) -> bytes:
        """Unwrap private options; arguments and errors are like those of `wrap`."""
        return self.perform("unwrap", annotation, parameters, seconds)

    def perform(
        self, operation: Operation, data: bytes, parameters: Sequence[str], seconds: float | None = None
    ) -> bytes:
        """Perform an operation, and record it; arguments and errors are like those of `wrap`."""
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

    def check(self, seconds: float) -> Checked | None:
        """Check whether the keys exist, without using them; return None if the service has no such check."""
        from decoder.provider import CheckableService

        return self._service.check(seconds) if isinstance(self._service, CheckableService) else None

    def reach(self, seconds: float) -> None:
        """Check that the service can be reached and has keys, without using one; services without a check pass.

        Args:
            seconds: how long it may take.

        Raises:
            ProviderError: the service does not answer in time, or no key can be used.
        """
        from decoder.provider import ReachableService

        if isinstance(self._service, ReachableService):
            self._service.reach(seconds)
        elif (checked := self.check(seconds)) and not checked.works:
            raise ProviderError("; ".join(checked.problems))

    def sweep(self) -> None:
        """Wipe expired key-encryption keys."""
        if self._keks:
            self._keks.sweep()

    def prepare(self, operation: Operation, data: bytes, parameters: Sequence[str]) -> Use:
        """Check a request and prepare to perform it. The caller records it with `record`.

        Every check is made for every request, before a cached key-encryption key is used.

        Raises:
            ProviderError: it is malformed.
            KeyRefusedError: the key may not be used.
            NoKekServiceError: the provider does not release key-encryption keys.
        """
        if operation in ("wrap", "wrap-kek"):
            if is_kek(data) != (operation == "wrap-kek"):
                raise ProviderError("private options and key-encryption keys are wrapped in different ways")
            return self._wrapping(operation, data, parameters)
        if operation == "unwrap-kek":
            use = self._opening(data, parameters)
            if use.check:  # the receiver of the key could not perform this check
                raise NoKekServiceError("this provider checks every layer, so it does not release key-encryption keys")
            return use
        if letter := envelope.parse(data):
            return self._opening_envelope(letter, parameters)
        return self._unwrapping(data, parameters)

    def _wrapping(self, operation: Operation, data: bytes, parameters: Sequence[str]) -> Use:
        """Prepare to wrap; a key-encryption key is returned in an empty envelope, which names this provider."""
        use = self._observed(operation, self._service.wrap(data, parameters))
        if operation == "wrap":
            return use
        return use._replace(run=lambda seconds: envelope.seal(data, self.name, use.run(seconds), b""))

    def _unwrapping(self, annotation: bytes, parameters: Sequence[str]) -> Use:
        use = self._observed("unwrap", self._service.unwrap(annotation, parameters))

        def run(seconds: float) -> bytes:
            opened = use.run(seconds)
            if is_kek(opened):  # it opens a whole image, but the request is for one layer
                raise ProviderError("the wrapped key is a key-encryption key, not private options")
            return opened

        return use._replace(run=run)

    def _opening_envelope(self, letter: Envelope, parameters: Sequence[str]) -> Use:
        if letter.provider != self.name:
            raise ProviderError(f"the annotation belongs to the provider {quoted(letter.provider)}, not {self.name}")
        use = self._opening(letter.wrapped_kek, parameters)

        def run(seconds: float) -> bytes:
            options = envelope.open_with(use.run(seconds), letter)
            if use.check:
                use.check(options, seconds)
            return options

        return use._replace(run=run)

    def _opening(self, wrapped_kek: bytes, parameters: Sequence[str]) -> Use:
        """Prepare to open a key-encryption key, or to use a cached one."""
        use = self._observed("unwrap-kek", self._service.unwrap(wrapped_kek, parameters))
        keks = self._keks
        if keks is None or not use.waits:
            return use._replace(run=lambda seconds: check_kek(use.run(seconds)))
        name = sha256(self._identity() + sha256(wrapped_kek).digest()).digest()
        if (kept := keks.get(name)) is not None:
            return use._replace(run=lambda _seconds: kept, waits=use.check is not None)  # which may ask the service

        def run(seconds: float) -> bytes:
            return keks.opened(name, lambda: check_kek(use.run(seconds)), seconds)

        return use._replace(run=run)

    def _observed(self, operation: Operation, use: Use) -> Use:
        observe = self._observe
        if observe is None:
            return use

        def run(seconds: float) -> bytes:
            began, succeeded = monotonic(), False
            try:
                result = use.run(seconds)
                succeeded = True
            finally:
                observe(operation, monotonic() - began, succeeded)
            return result

        return use._replace(run=run)

    def record(self, operation: str, keys: Sequence[str], error: BaseException | None, **more: object) -> None:
        """Write the audit line of an operation.

        Args:
            operation: the operation, or `handshake` for a client that was refused before it could call.
            keys: the canonical names of its keys, as far as they are known.
            error: the failure, or None.
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
            if isinstance(error, ProviderError):
                line["reason"], cause = error.reason, str(error)
            else:  # the text of an unexpected exception may hold a secret
                line["reason"], cause = "internal", type(error).__name__
            line["cause"] = ascii(cause)[1:-1][: limits.AUDITED_CAUSE_CHARACTERS]
        text = json.dumps({**line, **more})
        severity = journal.WARNING if error else journal.INFORMATION
        if self._report:
            journal.log_and_say(text, severity, self._report)
        else:
            journal.log(text, severity)


def _named(key: str) -> str:
    """Return a key's name as one bounded printable line, without the query, which may hold a PIN (RFC 7512 §2.4)."""
    return ascii(key.partition("?")[0])[1:-1][: limits.QUOTED_CHARACTERS]
