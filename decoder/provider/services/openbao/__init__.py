"""OpenBao and HashiCorp Vault: private options encrypted by the Transit engine.

The annotation is `{"key_url":"openbao://MOUNT/KEY","wrapped_key":"vault:v1:…","wrap_type":"TRANSIT"}`; `wrapped_key`
is what Transit returned, with the version of the key. `hashivault://KEY`, as sigstore names such keys, is read
as the key of that name at the configured mount. Policies see `openbao://MOUNT/KEY`.
"""

from __future__ import annotations

import re
from collections.abc import Callable, Mapping, Sequence
from typing import TYPE_CHECKING, NamedTuple

from decoder import limits
from decoder.errors import UsageError, quoted
from decoder.extras import missing
from decoder.formats import wire
from decoder.provider import Option, Use
from decoder.provider.errors import ProviderError
from decoder.provider.services.choice import check_key_to_unwrap, key_to_wrap
from decoder.provider.services.openbao import login
from decoder.provider.services.wrapped import build_annotation, parse_members

if TYPE_CHECKING:
    import hvac

    from decoder.provider.policy import KeyPolicy
    from decoder.provider.services.web import Session

OPTIONS = (
    Option("key", "the transit key: NAME, or openbao://MOUNT/NAME"),
    Option("mount", "the mount path of the Transit engine (default: transit)"),
    *login.OPTIONS,
)

_SCHEME = "openbao://"
_SIGSTORE_SCHEME = "hashivault://"
_EXAMPLE = "openbao://transit/NAME"
_WRAP_TYPE = "TRANSIT"
_HEALTHY = 200
_CIPHERTEXT = re.compile(r"vault:v[0-9]{1,9}:[A-Za-z0-9+/]+={0,2}", re.ASCII)
_CIPHERTEXT_CHARACTERS = 2 * limits.PRIVATE_OPTIONS_BYTES


class _Key(NamedTuple):
    mount: str
    name: str


def create(options: Mapping[str, str], policy: KeyPolicy) -> OpenBao:
    """Create the provider, without contacting the server.

    Raises:
        UsageError: an option is missing, contradicts another one, or is malformed.
        ProviderError: hvac is not installed.
    """
    try:
        import hvac  # noqa: F401 - to report its absence immediately
    except ImportError as error:
        raise ProviderError(missing("openbao", error)) from error
    mount = options.get("mount", "transit")
    if not login.is_path(mount):
        raise UsageError("the option mount is not a path of letters, digits, '_', '.' and '-'")
    try:
        configured = policy.configured and _one_form(policy.configured, mount)
    except ProviderError as error:
        raise UsageError(f"the option key: {error}") from error
    return OpenBao(login.server_of(options), mount, policy.with_configured(configured))


class OpenBao:
    """The keys of one Transit engine, or of several on one server."""

    def __init__(self, server: login.Server, mount: str, policy: KeyPolicy) -> None:
        from decoder.provider.services.web import Web

        self._server = server
        self._mount = mount
        self._policy = policy
        # A sealed server stays sealed until an operator unseals it; the messages of both programs contain the word.
        self._web = Web(server.ca_file, patient=True, final=(b"sealed",))
        self._login = login.CachedLogin(server.login)

    def wrap(self, options: bytes, parameters: Sequence[str]) -> Use:
        """Prepare to encrypt private options with a transit key; see `KeyService`."""
        key_url = key_to_wrap(parameters, self._policy, self._read, _EXAMPLE)
        key = _parse(key_url, self._mount)
        plaintext = wire.encode_base64(options)

        def run(seconds: float) -> bytes:
            reply = self._ask(
                seconds,
                lambda client: client.secrets.transit.encrypt_data(
                    key.name, plaintext=plaintext, mount_point=key.mount
                ),
            )
            ciphertext = _result(reply, "ciphertext")
            if not _CIPHERTEXT.fullmatch(ciphertext):
                raise ProviderError("the server returned something other than a transit ciphertext")
            return build_annotation(key_url, ciphertext, _WRAP_TYPE)

        return Use((key_url,), run)

    def unwrap(self, annotation: bytes, parameters: Sequence[str]) -> Use:
        """Prepare to decrypt private options with the transit key that wrapped them; see `KeyService`."""
        key_url, ciphertext = self._parse_annotation(annotation)
        check_key_to_unwrap(key_url, parameters, self._policy, self._read)
        key = _parse(key_url, self._mount)

        def run(seconds: float) -> bytes:
            reply = self._ask(
                seconds,
                lambda client: client.secrets.transit.decrypt_data(
                    key.name, ciphertext=ciphertext, mount_point=key.mount
                ),
            )
            try:
                return wire.decode_base64(_result(reply, "plaintext"))
            except ValueError as error:
                raise ProviderError("the server returned something other than a plaintext in base64") from error

        return Use((key_url,), run)

    def reach(self, seconds: float) -> None:
        """Check that the server is initialized and not sealed; see `ReachableService`."""
        url = f"{self._server.address}/v1/sys/health?standbyok=true&perfstandbyok=true"
        status = self._web.within(seconds, lambda session: session.get(url).status_code)
        if status != _HEALTHY:
            raise ProviderError(f"{self._server.host} is sealed or not initialized (HTTP {status})")

    def _read(self, text: str) -> str:
        return _one_form(text, self._mount)

    def _parse_annotation(self, annotation: bytes) -> tuple[str, str]:
        members = parse_members(annotation, _WRAP_TYPE)
        try:
            ciphertext = wire.text_value(wire.member(members, "wrapped_key"))
        except ValueError as error:
            raise ProviderError(f"the annotation is malformed: {error}") from error
        if len(ciphertext) > _CIPHERTEXT_CHARACTERS or not _CIPHERTEXT.fullmatch(ciphertext):
            raise ProviderError("the wrapped_key of the annotation is not a transit ciphertext")
        return self._read(wire.text_value(wire.member(members, "key_url"))), ciphertext

    def _ask(self, seconds: float, call: Callable[[hvac.Client], object]) -> object:
        """Log in and call; if the server rejects a token from an earlier login, log in and call once more."""
        from hvac.exceptions import Forbidden

        def work(session: Session) -> object:
            client = self._server.client(session)
            is_cached = self._login.give_token(client)
            try:
                return call(client)
            except Forbidden:
                if not is_cached:
                    raise
            self._login.forget()
            self._login.give_token(client)
            return call(client)

        return login.translated(lambda: self._web.within(seconds, work), self._server.host)


def _one_form(text: str, mount: str) -> str:
    key = _parse(text, mount)
    return f"{_SCHEME}{key.mount}/{key.name}"


def _parse(text: str, mount: str) -> _Key:
    """Parse the name of a key; the result is safe in the path of a URL."""
    if text.startswith(_SCHEME):
        mount, _, name = text.removeprefix(_SCHEME).rpartition("/")
    else:
        name = text.removeprefix(_SIGSTORE_SCHEME)
    if not login.is_path(mount) or not login.is_path(name) or "/" in name:
        raise ProviderError(f"{quoted(text)} is not NAME, {_SCHEME}MOUNT/NAME or {_SIGSTORE_SCHEME}NAME")
    return _Key(mount, name)


def _result(reply: object, name: str) -> str:
    """Return one string from the data of a reply; for a reply that is not JSON, hvac returns a response object."""
    try:
        return wire.text_value(wire.object_value(wire.object_value(reply)["data"])[name])
    except (ValueError, KeyError) as error:
        raise ProviderError(f"the server's reply holds no {name}") from error
