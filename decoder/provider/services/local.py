"""Keys in local files: AES-256-GCM with a 32-byte key, or with several in a directory.

An annotation is the JSON `{"key_url":"local://NAME","wrapped_key":…,"wrap_type":"AES"}`. NAME is the name of the key's
file; `wrapped_key` is base64 of the 12-byte nonce, the ciphertext and the 16-byte tag. `simplecrypt`, the sample
provider in ocicrypt's documentation, writes the same form with a `key_url` that names no key.
"""

from __future__ import annotations

import os
import re
from collections.abc import Mapping, Sequence
from contextlib import suppress

from cryptography.exceptions import InvalidTag
from cryptography.hazmat.primitives.ciphers.aead import AESGCM

from decoder import limits
from decoder.errors import KeyFileError, UsageError, quoted
from decoder.keys.file import is_inside, read_key_file
from decoder.provider import Checked, Option, Use
from decoder.provider.errors import ProviderError
from decoder.provider.policy import KeyPolicy
from decoder.provider.services.choice import check_key_to_unwrap, key_to_wrap
from decoder.provider.services.wrapped import build_annotation, parse_annotation

OPTIONS = (
    Option("key", "the file with the key, 32 bytes; only its owner may be able to read it"),
    Option("keys", "a directory of such files; the name of a file is the name of its key"),
)

_SCHEME = "local://"
_SAMPLE_SCHEME = "https://"
_EXAMPLE = "local://FILE"
_WRAP_TYPE = "AES"
_NONCE_BYTES = 12
_NAME = re.compile(r"[A-Za-z0-9_-][A-Za-z0-9_.-]*")


def create(options: Mapping[str, str], policy: KeyPolicy) -> Local:
    """Create the provider. The keys of a directory are read when they are needed.

    Raises:
        UsageError: both or none of `key` and `keys` are given.
        ProviderError: the directory does not exist, or the file is not a key.
    """
    key, keys = options.get("key", ""), options.get("keys", "")
    if bool(key) == bool(keys):
        raise UsageError("the provider local needs one of the options key and keys")
    if keys:
        if not os.path.isdir(keys):
            raise ProviderError(f"there is no directory {quoted(keys)}")
        return Local(keys, KeyPolicy("", policy.patterns or (f"{_SCHEME}*",)))
    directory, name = os.path.split(os.path.abspath(key))
    url = _read_url(name)
    _read_key(key, url)
    return Local(directory, KeyPolicy(url, policy.patterns))


class Local:
    """The keys of a directory.

    Args:
        directory: the directory of the key files; links out of it are rejected, except for the configured key.
        policy: which keys may be used, by their URLs.
    """

    def __init__(self, directory: str, policy: KeyPolicy) -> None:
        self._directory = directory
        self._policy = policy

    def wrap(self, options: bytes, parameters: Sequence[str]) -> Use:
        """Prepare to encrypt private options; see `KeyService`."""
        url = key_to_wrap(parameters, self._policy, _read_url, _EXAMPLE)

        def run(_seconds: float) -> bytes:
            nonce = os.urandom(_NONCE_BYTES)
            wrapped = nonce + AESGCM(self._key(url)).encrypt(nonce, options, None)
            return build_annotation(url, wrapped, _WRAP_TYPE)

        return Use((url,), run, waits=False)

    def unwrap(self, annotation: bytes, parameters: Sequence[str]) -> Use:
        """Prepare to decrypt private options; see `KeyService`."""
        url, data, _ = parse_annotation(annotation, _WRAP_TYPE)
        if url.startswith(_SAMPLE_SCHEME) and self._policy.configured:
            url = self._policy.configured
        url = _read_url(url)
        check_key_to_unwrap(url, parameters, self._policy, _read_url)

        def run(_seconds: float) -> bytes:
            try:
                return AESGCM(self._key(url)).decrypt(data[:_NONCE_BYTES], data[_NONCE_BYTES:], None)
            except (InvalidTag, ValueError) as error:  # ValueError: the nonce is too short
                raise ProviderError(f"it was not wrapped with the key {url}, or was changed") from error

        return Use((url,), run, waits=False)

    def check(self, _seconds: float) -> Checked:
        """Read every key that may be used; see `CheckableService`."""
        works, problems = 0, []
        try:
            urls = [self._policy.configured] if self._policy.configured else self._urls()
        except OSError as error:
            return Checked([], [f"the directory {quoted(self._directory)}: {error.strerror}"])
        for url in urls:
            try:
                self._key(url)
                works += 1
            except ProviderError as error:
                problems.append(str(error))
        if not urls:
            problems.append(f"the directory {quoted(self._directory)} holds no key that may be used")
        read = f"{works} {'key' if works == 1 else 'keys'} of {limits.SYMMETRIC_KEY_BYTES} bytes can be read"
        return Checked([read] if works else [], problems)

    def _urls(self) -> list[str]:
        """Return the URLs of the keys in the directory that may be used, at most KEYS_DIRECTORY_FILES."""
        urls = []
        for name in sorted(os.listdir(self._directory))[: limits.KEYS_DIRECTORY_FILES]:
            if name.startswith(".") or os.path.isdir(os.path.join(self._directory, name)):
                continue
            with suppress(ProviderError):  # other files, and keys that the policy refuses, open no image either way
                url = _read_url(name)
                self._policy.check(url)
                urls.append(url)
        return urls

    def _key(self, url: str) -> bytes:
        path = os.path.join(self._directory, url.removeprefix(_SCHEME))
        if url != self._policy.configured:
            path = os.path.realpath(path)
            if not is_inside(path, self._directory):
                raise ProviderError(f"the key {url} is a link that leads out of the directory of keys")
        return _read_key(path, url)


def _read_url(text: str) -> str:
    """Normalize the name or the URL of a key, and check that it is safe in a path."""
    name = text.removeprefix(_SCHEME)
    if not _NAME.fullmatch(name):
        raise ProviderError(f"{quoted(text)} is not the name of a local key: letters, digits, _, - and . only")
    return _SCHEME + name


def _read_key(path: str, url: str) -> bytes:
    try:
        key = read_key_file(path, private=True)
    except KeyFileError as error:
        raise ProviderError(f"the key {url} cannot be used: {error}") from error
    if len(key) != limits.SYMMETRIC_KEY_BYTES:
        raise ProviderError(f"the key {url} has {len(key)} bytes, not {limits.SYMMETRIC_KEY_BYTES}")
    return key
