"""The source `kbs:URL`: a key broker that releases keys to attested guests (docs/formats.md §8).

The attestation token of a guest and the private key that the token names (passport mode) come from files, or from the
attestation agent. For development there is the handshake with the sample attester instead.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from threading import Lock
from time import monotonic
from typing import TYPE_CHECKING, NamedTuple

from decoder import limits
from decoder.errors import UsageError, quoted
from decoder.extras import missing
from decoder.provider import Option
from decoder.provider.address import base_url
from decoder.provider.errors import ProviderError
from decoder.provider.optionfile import read_option_file
from decoder.provider.services.coco.apiserver import reach
from decoder.provider.services.coco.kbs.aatoken import fetch_token, is_token
from decoder.provider.services.coco.kbs.broker import Conversation, RefusedError

if TYPE_CHECKING:
    from decoder.keywrap.kid import ResourceId

OPTIONS = (
    Option("kbs-token", "for kbs: a file with the attestation token, read each time"),
    Option("tee-key", "for kbs: the private key that this token names; only its owner may read the file"),
    Option(
        "aa-url", "for kbs: the REST endpoint of the attestation agent, for new tokens (default: http://127.0.0.1:8006)"
    ),
    Option("tee", "for kbs, for development: sample: attest with evidence that proves nothing"),
    Option("kbs-ca", "CA certificates of key brokers, PEM (default: the system's)"),
)
ATTESTING = ("kbs-token", "aa-url", "tee")
"""The options of the attestation."""

_AGENT = "http://127.0.0.1:8006"
_SAMPLE = "sample"


class Attested(NamedTuple):
    """The result of an attestation.

    Attributes:
        tee_key: the private key to which the broker encrypts.
        token: the attestation token that names this key, or "".
        cookie: the broker's session, if the broker itself attested us.
    """

    tee_key: bytes
    token: str = ""
    cookie: str = ""


def create(where: str, options: Mapping[str, str]) -> Kbs:
    """Create the source, without contacting the broker.

    Args:
        where: the URL of the broker.
        options: the values of OPTIONS.

    Raises:
        UsageError: the URL is malformed, or an option is missing, unknown or contradicts another one.
        ProviderError: requests is not installed.
    """
    try:
        import requests  # noqa: F401 - to report its absence immediately
    except ImportError as error:
        raise ProviderError(missing("coco", error)) from error
    tee = options.get("tee", "")
    if tee not in ("", _SAMPLE):
        raise UsageError(f"the option tee only accepts {_SAMPLE}; the attestation agent attests other TEEs")
    if bool(options.get("kbs-token")) != bool(options.get("tee-key")):
        raise UsageError("the options kbs-token and tee-key need each other")
    if tee and (options.get("kbs-token") or options.get("aa-url")):
        raise UsageError("the option tee excludes kbs-token and aa-url")
    return Kbs(base_url(where, "the URL of the key broker"), options)


class Kbs:
    """The resources of one broker. An attestation is used for all keys until the broker requires a new one.

    Args:
        url: the URL of the broker, as `base_url` returns it.
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
        self._lock = Lock()
        self._attested: Attested | None = None

    def describe(self) -> str:
        """Return the name of the source for messages."""
        return f"kbs:{self._url}"

    def reach(self, seconds: float) -> None:
        """Check that the broker and the attestation agent answer, and that a token exists; see `Reachable`."""
        if self._token_file:
            self._read_passport()
        elif self._agent and not self._with_sample:
            try:
                reach(self._agent, seconds)
            except ProviderError as error:
                raise ProviderError(f"the attestation agent at {self._agent}: {error}") from error
        reach(self._url, seconds, self._ca_file)

    def key(self, resource: ResourceId, seconds: float) -> bytes:
        """Fetch a resource; attest again if the broker no longer accepts the earlier attestation. See `KeySource`."""
        from decoder.provider.services.web import Web

        deadline = monotonic() + seconds
        if not self._lock.acquire(timeout=seconds):
            raise ProviderError(f"no answer within {seconds:g} seconds: it is busy with other requests")
        try:
            data = Web(self._ca_file).within(
                seconds, lambda session: self._fetch(Conversation(self._url, session), resource, deadline)
            )
        except RefusedError:
            raise
        except ProviderError as error:
            if not self._url.startswith("http://"):
                raise
            raise ProviderError(f"{error} (if the broker speaks TLS at this port, write https://)") from error
        finally:
            self._lock.release()
        if len(data) > limits.COCO_RESOURCE_BYTES:
            raise ProviderError(f"the resource is longer than {limits.COCO_RESOURCE_BYTES} bytes")
        return data

    def _fetch(self, conversation: Conversation, resource: ResourceId, deadline: float) -> bytes:
        from decoder.provider.services.coco.kbs.teekey import open_reply

        for attested in self._attestations(conversation, deadline):
            try:
                return open_reply(conversation.get(resource, attested.token, attested.cookie), attested.tee_key)
            except RefusedError as error:
                refused = error
                if not error.is_of_the_token:
                    break
        raise refused

    def _attestations(self, conversation: Conversation, deadline: float) -> Iterator[Attested]:
        """Yield attestations: first the one used before, then the one in files, then a new one."""
        if self._attested:
            yield self._attested
            self._attested = None
        if self._token_file:
            yield self._read_passport()
        if self._with_sample:
            from decoder.provider.services.coco.kbs.handshake import attest_sample

            tee_key = attest_sample(conversation)
            self._attested = Attested(tee_key, cookie=conversation.cookie())
            yield self._attested
        elif self._agent:
            self._attested = _ask_agent(self._agent, deadline - monotonic())
            yield self._attested
        self._attested = None

    def _read_passport(self) -> Attested:
        token = read_option_file(self._token_file, "the kbs-token").decode(errors="replace").strip()
        if not is_token(token):
            raise ProviderError(f"the kbs-token {quoted(self._token_file)} does not hold a token")
        return Attested(read_option_file(self._key_file, "the tee-key", private=True), token)


def _ask_agent(url: str, seconds: float) -> Attested:
    try:
        token, tee_key = fetch_token(url, seconds)
    except ProviderError as error:
        raise ProviderError(f"the attestation agent at {url} has no token: {error}") from error
    return Attested(tee_key, token)
