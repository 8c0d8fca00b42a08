"""The source `kbs:URL`: a key broker that releases keys to whoever is attested (docs/formats.md §8).

The attestation token of a guest and the private key that the token names (passport mode) come from files, or from the
attestation agent. For development there is the handshake with the sample attester instead.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import TYPE_CHECKING, NamedTuple

from decoder import limits
from decoder.errors import KeyFileError, UsageError, quoted
from decoder.keys.file import read_key_file
from decoder.provider import Option
from decoder.provider.address import base_url
from decoder.provider.errors import ProviderError
from decoder.provider.services.coco.kbs.aatoken import fetch_token, is_token
from decoder.provider.services.coco.kbs.broker import Conversation, RefusedError

if TYPE_CHECKING:
    from decoder.keywrap.kid import ResourceId

OPTIONS = (
    Option("kbs-token", "for kbs: a file with the attestation token, read each time"),
    Option("tee-key", "for kbs: the private key that this token names; only its owner may read the file"),
    Option("aa-url", "for kbs: the REST endpoint of the attestation agent, for new tokens (http://127.0.0.1:8006)"),
    Option("tee", "for kbs: sample attests with evidence that proves nothing, for development"),
    Option("kbs-ca", "the certificates to accept from key brokers, in PEM, instead of the system's"),
)
ATTESTING = ("kbs-token", "aa-url", "tee")
"""The options that tell how to be attested."""

_AGENT = "http://127.0.0.1:8006"
_SAMPLE = "sample"


class Passport(NamedTuple):
    """An attestation token, and the private key that it names."""

    token: str
    tee_key: bytes


def create(where: str, options: Mapping[str, str]) -> Kbs:
    """Create the source; the broker is asked later.

    Args:
        where: the URL of the broker.
        options: those of OPTIONS.

    Raises:
        UsageError: the URL is malformed, or an option is missing, unknown or contradicts another one.
        ProviderError: requests is not installed.
    """
    try:
        import requests  # noqa: F401 - to know it at once
    except ImportError:
        raise ProviderError("kbs needs requests, which is not installed: pip install ctd-decoder[coco]") from None
    tee = options.get("tee", "")
    if tee not in ("", _SAMPLE):
        raise UsageError(f"the option tee knows {_SAMPLE} alone; other TEEs are attested by the attestation agent")
    if bool(options.get("kbs-token")) != bool(options.get("tee-key")):
        raise UsageError("the options kbs-token and tee-key need each other")
    if tee and (options.get("kbs-token") or options.get("aa-url")):
        raise UsageError("the option tee stands in place of kbs-token and aa-url")
    return Kbs(base_url(where, "the URL of the key broker"), options)


class Kbs:
    """The resources of one broker.

    Args:
        url: of the broker, as `base_url` returns it.
        options: as `create` has checked them.

    Raises:
        UsageError: the URL of the attestation agent is malformed.
    """

    def __init__(self, url: str, options: Mapping[str, str]) -> None:
        self._url = url
        self._ca_file = options.get("kbs-ca", "")
        self._token_file = options.get("kbs-token", "")
        self._key_file = options.get("tee-key", "")
        agent = options.get("aa-url") or ("" if self._token_file else _AGENT)
        self._agent = agent and base_url(agent, "the option aa-url")
        self._with_sample = options.get("tee") == _SAMPLE

    def describe(self) -> str:
        """Name it for a message."""
        return f"kbs:{self._url}"

    def key(self, resource: ResourceId) -> bytes:
        """Fetch a resource, with a new token if the first one is not accepted; see `KeySource`."""
        from decoder.provider.services.web import within_limit

        def work() -> bytes:
            with Conversation(self._url, self._ca_file) as conversation:
                return self._fetch(conversation, resource)

        data = within_limit(work, limits.COCO_SOURCE_SECONDS)
        if len(data) > limits.COCO_RESOURCE_BYTES:
            raise ProviderError(f"the resource is longer than {limits.COCO_RESOURCE_BYTES} bytes")
        return data

    def _fetch(self, conversation: Conversation, resource: ResourceId) -> bytes:
        from decoder.provider.services.coco.kbs.teekey import open_reply

        if self._with_sample:
            from decoder.provider.services.coco.kbs.handshake import attest_sample

            tee_key = attest_sample(conversation)
            return open_reply(conversation.get(resource), tee_key)
        passport = self._read_passport() if self._token_file else _ask_agent(self._agent)
        try:
            reply = conversation.get(resource, passport.token)
        except RefusedError as error:
            if not self._agent or not error.is_of_the_token:
                raise
            passport = _ask_agent(self._agent)
            reply = conversation.get(resource, passport.token)
        return open_reply(reply, passport.tee_key)

    def _read_passport(self) -> Passport:
        token = _read(self._token_file, "kbs-token").decode(errors="replace").strip()
        if not is_token(token):
            raise ProviderError(f"the kbs-token {quoted(self._token_file)} does not hold a token")
        return Passport(token, _read(self._key_file, "tee-key", private=True))


def _ask_agent(url: str) -> Passport:
    try:
        return Passport(*fetch_token(url))
    except ProviderError as error:
        raise ProviderError(f"the attestation agent at {url} has no token: {error}") from None


def _read(path: str, option: str, private: bool = False) -> bytes:
    try:
        return read_key_file(path, private)
    except KeyFileError as error:
        raise ProviderError(f"the {option} {quoted(path)}: {error}") from None
