"""The keys of a node, from the payload and the keys directory, and everything else that may open a layer."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from typing import TYPE_CHECKING

from decoder import limits
from decoder.errors import KeyFileError, PayloadError
from decoder.keys.file import KeyFile, recognise
from decoder.keys.kept import Kept
from decoder.keys.subject import Subject
from decoder.record import Record

if TYPE_CHECKING:
    from decoder.keys.budget import Budget

# Parameter names of a payload, each with the one that holds its passwords.
_PARAMETERS = {"privkeys": "privkeys-passwords", "gpg-privatekeys": "gpg-privatekeys-passwords"}
_PARAMETERS |= {"x509s": "", "pkcs11-yamls": ""}


class Notes:
    """What the operator should know.

    Attributes:
        remarks: printed only if no key opens the layer.
    """

    def __init__(self) -> None:
        self.remarks: list[str] = []
        self._problems: list[str] = []
        self._skipped: list[str] = []

    @property
    def warnings(self) -> list[str]:
        """Problems of the configuration of keyproviders, and every file or payload entry that was skipped."""
        return [*self._problems, *self._skipped]

    @property
    def brief_warnings(self) -> list[str]:
        """The same to print for each layer that was decrypted: of skipped files the first few, and a count."""
        more = len(self._skipped) - limits.REPORTED_FILES
        rest = f"{more} more were skipped (ctd-decoder doctor lists them)"
        return [*self._problems, *self._skipped[: limits.REPORTED_FILES], *([rest] if more > 0 else [])]

    def warn(self, line: str) -> None:
        """Add a problem of the configuration, once."""
        if line not in self._problems:
            self._problems.append(line)

    def skip(self, name: str, reason: object) -> None:
        """Warn that a file or payload entry, which may be a key, is not used."""
        self._skipped.append(f"{name} was skipped: {reason}")


class Keyring(KeyFile):
    """Private keys and certificates, in the order in which they are tried.

    Args:
        kept: parsed keys that an earlier process has kept; by default none.

    Attributes:
        kept: as above.
        notes: says which files were skipped, and why.
    """

    def __init__(self, kept: Kept | None = None) -> None:
        super().__init__()
        self.kept = kept or Kept()
        self.notes = Notes()

    def add(self, name: str, data: bytes, password: bytes = b"", file: str = "") -> None:
        """Add the keys in a file or payload entry; if there is none, note why.

        Args:
            name: where the data came from, for messages.
            data: the content, at most KEY_FILE_BYTES.
            password: opens the encrypted keys in it.
            file: the path of the file, or "" for a payload entry.
        """
        try:
            found = recognise(name, data, password)
        except KeyFileError as error:
            self.notes.skip(name, error)
        else:
            found.came_from(file, self.kept)
            self.extend(found)

    def add_parameters(self, parameters: Mapping[str, Sequence[bytes]]) -> None:
        """Add the keys of a payload.

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
    """Everything that may open a layer; ocicrypt has the same name for it.

    Attributes:
        keyring: the keys, and the notes for the operator.
        parameters: those of the payload, among them `pkcs11-config` and one list for each keyprovider.
        keyprovider_config: the file that configures keyproviders, or "" if none may be asked.
        deny_config: the file whose deny rules hold, or "". It is the same file, even where no keyprovider is asked.
        is_config_required: whether that file must exist, because an option and not only the environment names it.
        budget: what the layer may still cost, or None for no bound.
        subject: tells what keyproviders are asked about; only called if one is asked that records it.
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
            WrappedKeyError: the layer is given up.
        """
        if self.budget:
            self.budget.spend(attempts)

    def seconds(self, wanted: float) -> float:
        """Return how long something may take that wants so many seconds.

        Raises:
            WrappedKeyError: the layer is given up.
        """
        return self.budget.seconds(wanted) if self.budget else wanted
