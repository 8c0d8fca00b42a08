"""The keyring, with keys from the payload and the keys directory, and all other settings for opening a layer."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from typing import TYPE_CHECKING

from decoder import limits
from decoder.errors import KeyFileError, PayloadError, quoted
from decoder.keys.file import PASSWORD_SUFFIX, KeyFile, recognise
from decoder.keys.kept import Kept
from decoder.keys.subject import Subject
from decoder.record import Record

if TYPE_CHECKING:
    from decoder.keys.budget import Budget

# Parameter names of a payload, each with the one that holds its passwords.
_PARAMETERS = {"privkeys": "privkeys-passwords", "gpg-privatekeys": "gpg-privatekeys-passwords"}
_PARAMETERS |= {"x509s": "", "pkcs11-yamls": ""}


class Notes:
    """Notes for the operator.

    Attributes:
        remarks: lines to print only if no key opens the layer.
    """

    def __init__(self) -> None:
        self.remarks: list[str] = []
        self._problems: list[str] = []
        self._files: list[str] = []

    @property
    def warnings(self) -> list[str]:
        """Problems of the configuration of keyproviders, and all about files and payload entries."""
        return [*self._problems, *self._files]

    @property
    def brief_warnings(self) -> list[str]:
        """The same to print for each layer that was decrypted: of files the first few, and a count."""
        more = len(self._files) - limits.REPORTED_FILES
        rest = f"and {more} more warnings about files (ctd-decoder doctor lists them)"
        return [*self._problems, *self._files[: limits.REPORTED_FILES], *([rest] if more > 0 else [])]

    def warn(self, line: str) -> None:
        """Add a problem of the configuration, once."""
        if line not in self._problems:
            self._problems.append(line)

    def skip(self, name: str, reason: object) -> None:
        """Warn that a file or payload entry, which may hold a key, is not used."""
        self._files.append(f"{name} was skipped: {reason}")

    def exposed(self, name: str, reason: str) -> None:
        """Warn that others can read or change a file that is used."""
        self._files.append(f"{name} {reason}")


class Keyring(KeyFile):
    """Private keys and certificates, in the order in which they are tried.

    Args:
        kept: parsed keys that an earlier process has kept; by default none.

    Attributes:
        kept: the same.
        notes: warnings about files that were skipped, and other remarks.
    """

    def __init__(self, kept: Kept | None = None) -> None:
        super().__init__()
        self.kept = kept or Kept()
        self.notes = Notes()

    def add(self, name: str, data: bytes, password: bytes = b"", file: str = "") -> None:
        """Add the keys in a file or payload entry. If it has none, add a warning with the reason.

        Args:
            name: where the data came from, for messages.
            data: the content, at most KEY_FILE_BYTES.
            password: the password of the encrypted keys in it.
            file: the path of the file, or "" for a payload entry.
        """
        try:
            found = recognise(name, data, password)
        except KeyFileError as error:
            self.notes.skip(name, error)
        else:
            found.came_from(file, self.kept)
            if file:
                found.advise(f"write it to {quoted(file + PASSWORD_SUFFIX)}")
            self.extend(found)

    def add_parameters(self, parameters: Mapping[str, Sequence[bytes]]) -> None:
        """Add the keys of a payload.

        Args:
            parameters: the payload's parameters by name, such as `privkeys` and `privkeys-passwords`; others are
                ignored.

        Raises:
            PayloadError: there are more passwords than keys.
        """
        for name, passwords_name in _PARAMETERS.items():
            items, passwords = parameters.get(name, ()), parameters.get(passwords_name, ())
            if name == "privkeys" and len(passwords) > len(items):  # the other list may have any length
                raise PayloadError(f"the payload holds {len(items)} {name} but {len(passwords)} {passwords_name}")
            for index, data in enumerate(items):
                self.add(f"{name}[{index}]", data, passwords[index] if index < len(passwords) else b"")


class DecryptConfig(Record):
    """Everything that is needed to open a layer; ocicrypt has the same name for it.

    Attributes:
        keyring: the keys, and the notes for the operator.
        parameters: the payload's parameters, among them `pkcs11-config` and one list for each keyprovider.
        keyprovider_config: the file that configures keyproviders, or "" if none may be asked.
        deny_config: the file with the deny rules, or "". It is the same file, but its rules also hold where no
            keyprovider may be asked.
        is_config_required: whether that file must exist, because an option names it and not only the environment.
        budget: the time and the attempts that are left for the layer, or None for no bound.
        subject: describes the layer for keyproviders; only called if one is asked that records it.
    """

    keyring: Keyring
    parameters: Mapping[str, Sequence[bytes]] = {}
    keyprovider_config: str = ""
    deny_config: str = ""
    is_config_required: bool = False
    budget: Budget | None = None
    subject: Callable[[], Subject] = Subject

    def spend(self, attempts: int = 1) -> None:
        """Count operations with private keys before they are done.

        Raises:
            WrappedKeyError: the layer has used up its time or its attempts.
        """
        if self.budget:
            self.budget.spend(attempts)

    def seconds(self, wanted: float) -> float:
        """Return how many of the wanted seconds an operation may take; see `Budget.seconds`.

        Raises:
            WrappedKeyError: the layer has used up its time or its attempts.
        """
        return self.budget.seconds(wanted) if self.budget else wanted
