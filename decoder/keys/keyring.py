"""The keys of a node, whether the payload brought them or `keysdirectory` found them."""

from __future__ import annotations

from collections.abc import Mapping, Sequence

from decoder.errors import KeyFileError, PayloadError
from decoder.keys.file import KeyFile, recognise
from decoder.keys.kept import Kept

# Parameter names of a payload, each with the one that holds its passwords.
_PARAMETERS = {"privkeys": "privkeys-passwords", "gpg-privatekeys": "gpg-privatekeys-passwords"}
_PARAMETERS |= {"x509s": "", "pkcs11-yamls": ""}


class Keys(KeyFile):
    """Everything that may open a layer, in the order in which it is tried, and what was passed over.

    Args:
        kept: what earlier processes kept of key files and keyproviders; by default nothing.

    Attributes:
        kept: as above.
        pkcs11_config: which PKCS#11 modules the payload allows, as YAML.
        keyprovider_config: the file that configures keyproviders, or "".
        deny_config: the file whose deny rules hold, or ""; the same one, also where no keyprovider is asked.
        parameters: those of the payload, among them one per keyprovider name.
        warnings: a line for each file or payload entry that holds no usable key.
        remarks: what else is worth knowing should no key open the layer.
    """

    def __init__(self, kept: Kept | None = None) -> None:
        super().__init__()
        self.kept = kept or Kept()
        self.pkcs11_config: list[bytes] = []
        self.keyprovider_config = ""
        self.deny_config = ""
        self.parameters: dict[str, list[bytes]] = {}
        self.warnings: list[str] = []
        self.remarks: list[str] = []

    def add(self, name: str, data: bytes, password: bytes = b"", file: str = "") -> None:
        """Add the keys in one file (with its path) or payload entry, or a warning that says why there is none."""
        try:
            found = recognise(name, data, password)
        except KeyFileError as error:
            self.pass_over(name, error)
        else:
            found.came_from(file, self.kept)
            self.extend(found)

    def pass_over(self, name: str, reason: object) -> None:
        """Remember that something which might have been a key is not used."""
        self.warnings.append(f"{name} was passed over: {reason}")

    def add_parameters(self, parameters: Mapping[str, Sequence[bytes]]) -> None:
        """Add what the payload brought.

        Raises:
            PayloadError: there are more passwords than keys.
        """
        for name, passwords_name in _PARAMETERS.items():
            items, passwords = parameters.get(name, ()), parameters.get(passwords_name, ())
            if name == "privkeys" and len(passwords) > len(items):  # the other list may have any length
                raise PayloadError(f"the payload holds {len(items)} {name} but {len(passwords)} {passwords_name}")
            for index, data in enumerate(items):
                self.add(f"{name}[{index}]", data, passwords[index] if index < len(passwords) else b"")
        self.pkcs11_config += parameters.get("pkcs11-config", ())
        self.parameters.update({name: list(items) for name, items in parameters.items()})
