"""PKCS#11 tokens: private options wrapped in the form of the scheme `pkcs11`, whose JSON is the annotation.

The annotation names no key, so the configured key files are tried when unwrapping. Parameters and policies name a key
by the name of its file, so that a caller cannot make this node use any other file.
"""

from __future__ import annotations

import os
from collections.abc import Mapping, Sequence
from contextlib import suppress
from time import monotonic
from typing import TYPE_CHECKING

from decoder import limits
from decoder.errors import DecoderError, KeyFileError, UsageError, WrappedKeyError, quoted
from decoder.keys.file import KeyMaterial
from decoder.keywrap import pkcs11
from decoder.keywrap.pkcs11.config import Pkcs11Config, node_config, read_config
from decoder.provider import Checked, Option, Use
from decoder.provider.errors import KeyRefusedError, ProviderError
from decoder.provider.optionfile import read_option_file
from decoder.provider.services.choice import NOTHING

if TYPE_CHECKING:
    from decoder.errors import Describable
    from decoder.provider.policy import KeyPolicy

OPTIONS = (
    Option("key", "a YAML key file, a public key or certificate (for wrapping only), or a directory of them"),
    Option("config", "the file that names the modules that may be loaded (default: $OCICRYPT_CONFIG)"),
)


def create(options: Mapping[str, str], policy: KeyPolicy) -> TokenKeys:
    """Create the provider, without accessing a token.

    Raises:
        UsageError: no key is configured.
        ProviderError: the key file or directory, or the configuration, cannot be read.
    """
    place = options.get("key", "")
    if not place:
        raise UsageError("pkcs11 needs the option key")
    paths = _key_files(place)
    config = options.get("config", "")
    if config and not os.path.isfile(config):
        raise ProviderError(f"the config {quoted(config)} is not a file")
    # A key has the name of its file. Without patterns, every key in the directory may be used.
    return TokenKeys(paths, policy.with_configured(""), config)


def _key_files(place: str) -> dict[str, str]:
    """Return the paths of key files by their names."""
    try:
        names = sorted(os.listdir(place))
    except OSError:  # it is not a directory, or to read it as a file says what else is wrong
        paths = [place]
    else:
        paths = [os.path.join(place, name) for name in names if not name.startswith(".")]
        paths = [path for path in paths if os.path.isfile(path)]
        if not 0 < len(paths) <= limits.KEYS_DIRECTORY_FILES:
            raise ProviderError(f"the directory {quoted(place)} holds no key file, or too many")
    for path in paths:
        read_option_file(path, "the key file")
    return {os.path.basename(path): path for path in paths}


class TokenKeys:
    """The keys on tokens that key files point to.

    Args:
        paths: the paths of the key files, by their names.
        policy: which key files may be used.
        config: the file with the modules that may be loaded, which is read each time; "" for the node's own.
    """

    def __init__(self, paths: dict[str, str], policy: KeyPolicy, config: str) -> None:
        self._paths = paths
        self._policy = policy
        self._config = config

    def wrap(self, options: bytes, parameters: Sequence[str]) -> Use:
        """Prepare to wrap private options with each of the named keys, or the only one; see `KeyService`."""
        names = self._named(parameters) or self._allowed()
        if len(names) != 1 and not self._named(parameters):
            raise ProviderError(
                f"no key was named, and {len(names)} may be used: name one in the recipient, provider:NAME:FILE, "
                f"with one of the files {', '.join(map(quoted, names[: limits.LISTED_NAMES]))}"
            )

        def run(_seconds: float) -> bytes:
            recipients = [read_option_file(self._paths[name], "the key file") for name in names]
            try:
                return pkcs11.wrap_with(options, recipients, self._allowed_modules(), pkcs11.chosen_hash())
            except (KeyFileError, WrappedKeyError) as error:
                raise ProviderError(f"{', '.join(map(quoted, names))}: {error}") from error

        return Use(tuple(names), run)

    def unwrap(self, annotation: bytes, parameters: Sequence[str]) -> Use:
        """Prepare to unwrap private options with the first key that opens them; see `KeyService`."""
        names = self._named(parameters) or self._allowed()
        return Use(tuple(names), lambda seconds: self._unwrap(annotation, names, seconds))

    def _unwrap(self, annotation: bytes, names: list[str], seconds: float) -> bytes:
        key_files = []
        for name in names:
            data = read_option_file(self._paths[name], "the key file")
            if pkcs11.is_key_file(data):  # public keys can only wrap
                key_files.append(KeyMaterial(name, data))
        reasons: list[str] = []
        deadline = monotonic() + seconds

        def refused(key: Describable, reason: str) -> None:
            reasons.append(f"{quoted(key.describe())}: {reason}")
            if monotonic() > deadline:
                raise WrappedKeyError(f"given up after {seconds:g} seconds; {reasons[-1]}")

        try:
            opened = pkcs11.unwrap_with(annotation, key_files, self._allowed_modules(), refused)
        except (KeyFileError, WrappedKeyError) as error:
            raise ProviderError(str(error)) from error
        if opened is None:
            shown = "; ".join(reasons)[: limits.PROVIDER_ERROR_BYTES]
            raise ProviderError(f"no key opens it: {shown or 'there is no key file that may be used'}")
        return opened

    def check(self, _seconds: float) -> Checked:
        """Find the key of every key file on its token; see `CheckableService`."""
        works, problems = [], []
        for name in self._allowed():
            try:
                data = read_option_file(self._paths[name], "the key file")
                if pkcs11.is_key_file(data):
                    works.append(f"{quoted(name)}: {pkcs11.find_key(data, self._allowed_modules())}")
            except DecoderError as error:
                problems.append(f"{quoted(name)}: {error}")
        if not works and not problems:
            problems.append("there is no key file that may be used to unwrap: public keys can only wrap")
        return Checked(works, problems)

    def _allowed_modules(self) -> Pkcs11Config:
        """Read the modules that may be loaded. This is done each time, because the file may change meanwhile."""
        return read_config(self._config) if self._config else node_config()

    def _named(self, parameters: Sequence[str]) -> list[str]:
        """Return the keys that the caller names, if they are configured and allowed."""
        names = list(dict.fromkeys(item for item in parameters if item not in NOTHING))
        for name in names:
            if name not in self._paths:
                raise KeyRefusedError(name, f"no key file {quoted(name)} is configured")
            self._policy.check(name)
        return names

    def _allowed(self) -> list[str]:
        allowed = []
        for name in self._paths:
            with suppress(KeyRefusedError):
                self._policy.check(name)
                allowed.append(name)
        return allowed
