"""OpenBao and HashiCorp Vault: private options encrypted by the Transit engine.

The annotation is `{"key_url":"openbao://MOUNT/KEY","wrapped_key":"vault:v1:…","wrap_type":"TRANSIT"}`; `wrapped_key`
is what Transit returned, which tells the version of the key. `hashivault://KEY`, as sigstore names such keys, is read
as the key of that name at the configured mount. Policies see `openbao://MOUNT/KEY`.
"""

from __future__ import annotations

import json
import re
from collections.abc import Callable, Mapping, Sequence
from typing import TYPE_CHECKING, NamedTuple, TypeVar

from decoder import limits
from decoder.errors import UsageError, quoted
from decoder.formats import wire
from decoder.provider import Option
from decoder.provider.errors import ProviderError
from decoder.provider.services import baologin
from decoder.provider.services.choice import check_key_to_unwrap, key_to_wrap

if TYPE_CHECKING:
    import hvac

    from decoder.provider.policy import KeyPolicy
    from decoder.provider.services.web import Session

    _Result = TypeVar("_Result")

OPTIONS = (
    Option("key", "the transit key: NAME, or openbao://MOUNT/NAME"),
    Option("mount", "where the Transit engine is mounted (transit)"),
    *baologin.OPTIONS,
)

_SCHEME = "openbao://"
_SIGSTORE_SCHEME = "hashivault://"
_WRAP_TYPE = "TRANSIT"
_CIPHERTEXT = re.compile(r"vault:v[0-9]{1,9}:[A-Za-z0-9+/]+={0,2}", re.ASCII)
_CIPHERTEXT_CHARACTERS = 2 * limits.PRIVATE_OPTIONS_BYTES


class _Key(NamedTuple):
    mount: str
    name: str


def create(options: Mapping[str, str], policy: KeyPolicy) -> OpenBao:
    """Create the provider; the server is asked later.

    Raises:
        UsageError: an option is missing, contradicts another one, or is malformed.
        ProviderError: hvac is not installed.
    """
    try:
        import hvac  # noqa: F401 - to know it at once
    except ImportError:
        raise ProviderError("openbao needs hvac, which is not installed: pip install ctd-decoder[openbao]") from None
    mount = options.get("mount", "transit")
    if not baologin.is_path(mount):
        raise UsageError("the option mount is not a path of letters, digits, '_', '.' and '-'")
    try:
        policy.configured = policy.configured and _one_form(policy.configured, mount)
    except ProviderError as error:
        raise UsageError(f"the option key: {error}") from None
    return OpenBao(baologin.server_of(options), mount, policy)


class OpenBao:
    """The keys of one Transit engine, or of several on one server."""

    def __init__(self, server: baologin.Server, mount: str, policy: KeyPolicy) -> None:
        from decoder.provider.services.web import Session

        self._server = server
        self._mount = mount
        self._policy = policy
        # A sealed server stays sealed until somebody comes; the texts of both programs have the word.
        self._session: Session = Session(server.ca_file, final=(b"sealed",))
        self._login = baologin.CachedLogin(server.login)

    def wrap(self, options: bytes, parameters: Sequence[str]) -> bytes:
        """Encrypt private options with a transit key; see `Provider`."""
        key_url = key_to_wrap(parameters, self._policy, self._read)
        key = _parse(key_url, self._mount)
        plaintext = wire.encode_base64(options)
        reply = self._ask(
            lambda client: client.secrets.transit.encrypt_data(key.name, plaintext=plaintext, mount_point=key.mount)
        )
        ciphertext = _result(reply, "ciphertext")
        if not _CIPHERTEXT.fullmatch(ciphertext):
            raise ProviderError("the server returned something other than a transit ciphertext")
        annotation = {"key_url": key_url, "wrapped_key": ciphertext, "wrap_type": _WRAP_TYPE}
        return json.dumps(annotation, separators=(",", ":")).encode()

    def unwrap(self, annotation: bytes, parameters: Sequence[str]) -> bytes:
        """Decrypt private options with the transit key that wrapped them; see `Provider`."""
        key_url, ciphertext = self._parse_annotation(annotation)
        check_key_to_unwrap(key_url, parameters, self._policy, self._read)
        key = _parse(key_url, self._mount)
        reply = self._ask(
            lambda client: client.secrets.transit.decrypt_data(key.name, ciphertext=ciphertext, mount_point=key.mount)
        )
        try:
            return wire.decode_base64(_result(reply, "plaintext"))
        except ValueError:
            raise ProviderError("the server returned something other than a plaintext in base64") from None

    def _read(self, text: str) -> str:
        return _one_form(text, self._mount)

    def _parse_annotation(self, annotation: bytes) -> tuple[str, str]:
        try:
            value = wire.parse_object(annotation)
            key_url = wire.text_value(wire.member(value, "key_url"))
            ciphertext = wire.text_value(wire.member(value, "wrapped_key"))
            wrap_type = wire.text_value(wire.member(value, "wrap_type"))
        except ValueError as error:
            raise ProviderError(f"the annotation is malformed: {error}") from None
        if wrap_type != _WRAP_TYPE:
            raise ProviderError(f"the annotation is of the type {quoted(wrap_type)}, not {_WRAP_TYPE}")
        if len(ciphertext) > _CIPHERTEXT_CHARACTERS or not _CIPHERTEXT.fullmatch(ciphertext):
            raise ProviderError("the wrapped_key of the annotation is not a transit ciphertext")
        return self._read(key_url), ciphertext

    def _ask(self, call: Callable[[hvac.Client], object]) -> object:
        """Log in and call; once more if the server does not take a token from an earlier login."""
        from hvac.exceptions import Forbidden

        from decoder.provider.services.web import within_limit

        def work() -> object:
            client = self._server.client(self._session)
            is_cached = self._login.give_token(client)
            try:
                return call(client)
            except Forbidden:
                if not is_cached:
                    raise
            self._login.forget()
            self._login.give_token(client)
            return call(client)

        return baologin.translated(lambda: within_limit(work), self._server.host)


def _one_form(text: str, mount: str) -> str:
    key = _parse(text, mount)
    return f"{_SCHEME}{key.mount}/{key.name}"


def _parse(text: str, mount: str) -> _Key:
    """Parse the name of a key; what it gives may be put into the path of a URL."""
    if text.startswith(_SCHEME):
        mount, _, name = text.removeprefix(_SCHEME).rpartition("/")
    else:
        name = text.removeprefix(_SIGSTORE_SCHEME)
    if not baologin.is_path(mount) or not baologin.is_path(name) or "/" in name:
        raise ProviderError(f"{quoted(text)} is not NAME, {_SCHEME}MOUNT/NAME or {_SIGSTORE_SCHEME}NAME")
    return _Key(mount, name)


def _result(reply: object, name: str) -> str:
    """Get one text from the data of a reply; hvac returns its response object for what is not JSON."""
    try:
        return wire.text_value(wire.object_value(wire.object_value(reply)["data"])[name])
    except (ValueError, KeyError):
        raise ProviderError(f"the server's reply holds no {name}") from None
