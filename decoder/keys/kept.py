"""What earlier processes of this program have kept for this one: nothing, except for a worker of the agent."""

from __future__ import annotations

from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from collections.abc import Callable
    from typing import Protocol, TypeVar

    from decoder.keys.subject import Subject

    Parsed = TypeVar("Parsed")

    class Provider(Protocol):
        """A keyprovider's entry in the configuration (`provider.client.config.Configured`)."""

        @property
        def name(self) -> str:
            """Its name."""

        @property
        def transport(self) -> object:
            """How it is reached."""

        @property
        def seconds(self) -> float:
            """How long it may take."""

        @property
        def subject(self) -> Subject:
            """The image or layer of the request."""


class Kept:
    """The default, which keeps nothing: this process parses every key and asks every provider itself.

    Attributes:
        client: the number of the process for which this one decrypts a layer; 0 for none.
    """

    client = 0

    def parsed(self, file: str, sources: list[bytes], parse: Callable[[], Parsed]) -> Parsed:
        """Return a parsed key: a kept one, or what `parse` returns.

        Args:
            file: the path of the key file, or "" for a key of the payload, which is never kept.
            sources: everything that the result depends on, including the password.
            parse: parses the key; what it raises is passed on.
        """
        return parse()

    def ask(self, provider: Provider, operation: str, data: bytes, parameters: list[bytes]) -> bytes | None:
        """Ask a keyprovider through the process that keeps connections open.

        Args:
            provider: its entry in the configuration.
            operation: `keyunwrap` or `keywrap`.
            data: what to unwrap or wrap.
            parameters: the client's parameters for this provider.

        Returns:
            The provider's answer, or None if this process must ask it.

        Raises:
            ProviderError: the provider did not answer within its time limit.
        """
        return None

    def has_opened(self, provider: Provider, data: bytes, parameters: list[bytes]) -> bool:
        """Check whether the key-encryption key of a wrapped key is kept, so that no key service must be asked."""
        return False
