"""The exceptions of this program, one class per exit status.

Each has its data as attributes; the text is built here, when it is printed.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

from decoder import limits

if TYPE_CHECKING:
    from collections.abc import Sequence
    from typing import Protocol

    class Describable(Protocol):
        """A key, or anything else that was tried, which can describe itself without revealing secrets."""

        def describe(self) -> str:
            """Return its name for messages."""


DEBUG_VARIABLE = "CTD_DECODER_DEBUG"
"""The environment variable that makes failures show where they were raised: see `failure.traceback`."""

_PROVIDER = ".enc.keys.provider."  # in the names of annotations that keyproviders wrapped


class DecoderError(Exception):
    """An expected error, with a message for the user; it ends the program unless a caller handles it.

    Attributes:
        status: the exit status.
        layer: the digest of the encrypted layer, as its descriptor has it and not checked; "" if it is not known.
    """

    status = 70
    layer = ""


class UsageError(DecoderError):
    """The command line cannot be understood."""

    status = 2


class PayloadError(DecoderError):
    """No payload came, or one that is not what containerd sends."""

    status = 3


class DeniedError(DecoderError):
    """The operator's configuration denies the layer to this host."""

    status = 4


class LayerError(DecoderError):
    """The layer, or what its descriptor says about it, is damaged or not authentic."""

    status = 5


class StreamError(DecoderError):
    """Standard input, standard output or the spool file failed."""

    status = 7

    def __init__(self, stream: str, cause: OSError) -> None:
        super().__init__(stream, cause)
        self.stream = stream
        self.cause = cause

    def __str__(self) -> str:
        return f"{self.stream}: {self.cause.strerror or type(self.cause).__name__}"


class ShortageError(DecoderError):
    """The system has no memory for this program, or allows no further thread."""

    status = 8


class ImageError(DecoderError):
    """An image cannot be read or written, or a registry fails; the text names the place."""

    status = 7


class DigestError(ImageError):
    """The digest or size of a blob differs from its descriptor."""

    status = 5


class KeyFileError(DecoderError):
    """A key cannot be read or used. Never ends the program: the next key is tried."""


class NoPasswordError(KeyFileError):
    """A key is encrypted, and no password was given.

    Args:
        reason: the first part of the message.
        advice: how the password is given, for the second part; "" for none.
    """

    def __init__(self, reason: str, advice: str = "") -> None:
        super().__init__(f"{reason}: {advice}" if advice else reason)
        self.reason = reason


class WrappedKeyError(DecoderError):
    """A wrapped key is malformed or outside what is accepted. Never ends the program."""


class ProviderFailedError(WrappedKeyError):
    """A configured keyprovider did not unwrap a key; the text names it. This alone never ends the program."""


class Attempt:
    """One attempt to open a wrapped key, and why it failed.

    Args:
        annotation: the name of the annotation that holds the wrapped key.
        index: the position of the wrapped key in the annotation, from 0.
        key: the key that was tried, or None if the wrapped key itself was rejected.
        reason: the reason of the failure.
        trace: where it was raised, if DEBUG_VARIABLE asks for that.
    """

    __slots__ = ("annotation", "index", "key", "reason", "trace")

    def __init__(self, annotation: str, index: int, key: Describable | None, reason: str, trace: str = "") -> None:
        self.annotation = annotation
        self.index = index
        self.key = key
        self.reason = reason
        self.trace = trace

    def __str__(self) -> str:
        tried = f" with {self.key.describe()}" if self.key else ""
        is_plain = self.annotation.isprintable() and len(self.annotation) <= limits.QUOTED_CHARACTERS
        annotation = self.annotation if is_plain and self.annotation.isascii() else quoted(self.annotation)
        return f"{annotation}[{self.index}]{tried}: {self.reason}"


class NoKeyError(DecoderError):
    """No key opens the layer.

    Args:
        attempts: what was tried.
        notes: files that may be keys but were not used.
        advice: what to check: directories that were searched, recipients of the layer, keys that were available.
    """

    status = 4

    def __init__(self, attempts: Sequence[Attempt], notes: Sequence[str], advice: Sequence[str] = ()) -> None:
        super().__init__(attempts, notes, advice)
        self.attempts = attempts
        self.notes = notes
        self.advice = advice

    def __str__(self) -> str:
        """Return a line for each reason: failed keyproviders first, then advice, keys that did not fit, and notes."""
        providers = [str(attempt) for attempt in self.attempts if _PROVIDER in attempt.annotation]
        keys = [str(attempt) for attempt in self.attempts if _PROVIDER not in attempt.annotation]
        lines = [*_first(providers, "attempts"), *self.advice, *_first(keys, "attempts"), *_first(self.notes, "notes")]
        return "\n  ".join(["no key opens this layer", *lines])


class KeyProviderError(NoKeyError):
    """No key opens the layer, and a configured keyprovider failed on the way."""

    status = 6


def _first(lines: Sequence[str], what: str) -> list[str]:
    rest = len(lines) - limits.REPORTED_ATTEMPTS
    return [*lines[: limits.REPORTED_ATTEMPTS], *([f"and {rest} more {what}"] if rest > 0 else [])]


def quoted(text: object) -> str:
    """Quote untrusted text for a message: one line, printable, at most QUOTED_CHARACTERS."""
    shown = ascii(text)
    if len(shown) > limits.QUOTED_CHARACTERS:
        shown = shown[: limits.QUOTED_CHARACTERS] + "…"
    return shown
