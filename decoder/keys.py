"""The keys of a node: those that the payload brought, then those in the keys directory."""

from __future__ import annotations

import os
from collections.abc import Iterator, Mapping, Sequence

from decoder import limits
from decoder.errors import KeyFileError, PayloadError, quoted
from decoder.keyfile import KeyMaterial, PrivateKey, read_key_file, split


class Keys:
    """Key material by kind, and what was passed over on the way to it.

    Attributes:
        private: RSA and EC private keys, in the order in which they are tried.
        certificates: X.509 certificates, which tell which key a PKCS#7 recipient has.
        pgp: OpenPGP secret keys.
        pkcs11: YAML files that point to keys on tokens.
        pkcs11_config: which PKCS#11 modules the payload allows, as YAML.
        notes: a line for each file or payload entry that holds no usable key.
    """

    def __init__(self) -> None:
        self.private: list[PrivateKey] = []
        self.certificates: list[KeyMaterial] = []
        self.pgp: list[KeyMaterial] = []
        self.pkcs11: list[KeyMaterial] = []
        self.pkcs11_config: list[bytes] = []
        self.notes: list[str] = []

    def add(self, name: str, data: bytes, password: bytes = b"") -> None:
        """Add the private keys in one file or payload entry, or a note that says why there is none."""
        try:
            self.private += split(name, data, password)
        except KeyFileError as error:
            self.notes.append(f"{name} was passed over: {error}")

    def add_parameters(self, parameters: Mapping[str, Sequence[bytes]]) -> None:
        """Add what the payload brought: `privkeys` with their `privkeys-passwords`.

        Raises:
            PayloadError: there are more passwords than keys.
        """
        private = parameters.get("privkeys", ())
        passwords = parameters.get("privkeys-passwords", ())
        if len(passwords) > len(private):
            raise PayloadError(f"the payload holds {len(private)} privkeys but {len(passwords)} privkeys-passwords")
        for index, data in enumerate(private):
            self.add(f"privkeys[{index}]", data, passwords[index] if index < len(passwords) else b"")

    def add_directory(self, directory: str) -> None:
        """Add every key below a directory; what is no key, or cannot be read, leaves a note.

        Files come in the order of their names, before those in subdirectories. Symbolic links are
        followed while they stay inside, as a Kubernetes Secret needs it; each file counts once.
        """
        size = 0
        for files, path in enumerate(self._walk(directory, os.path.realpath(directory), set())):
            if files >= limits.KEYS_DIRECTORY_FILES or size > limits.KEYS_DIRECTORY_BYTES:
                self.notes.append(
                    f"{quoted(directory)} holds more than {limits.KEYS_DIRECTORY_FILES} files or "
                    f"{limits.KEYS_DIRECTORY_BYTES} bytes: the rest was not read"
                )
                return
            name = quoted(os.path.relpath(path, directory))
            try:
                data = read_key_file(path)
            except KeyFileError as error:
                self.notes.append(f"{name} was passed over: {error}")
            else:
                size += len(data)
                self.add(name, data)

    def _walk(self, directory: str, root: str, seen: set[tuple[int, int]], depth: int = 0) -> Iterator[str]:
        """Yield every file below `directory` whose real path is below `root`, each once."""
        try:
            with os.scandir(directory) as scan:
                entries = sorted(scan, key=lambda entry: entry.name)
        except OSError as error:
            self.notes.append(f"keys directory {quoted(directory)}: {error.strerror}")
            return
        subdirectories = []
        for entry in entries:
            try:
                status = entry.stat()
                outside = entry.is_symlink() and not os.path.realpath(entry.path).startswith(os.path.join(root, ""))
            except OSError as error:
                self.notes.append(f"{quoted(entry.name)} was passed over: {error.strerror}")
                continue
            if outside:
                self.notes.append(f"{quoted(entry.name)} was passed over: the link leads out of the keys directory")
            elif (identity := (status.st_dev, status.st_ino)) not in seen:
                seen.add(identity)
                if entry.is_dir():
                    subdirectories.append(entry.path)
                else:
                    yield entry.path
        for path in subdirectories:
            if depth < limits.KEYS_DIRECTORY_DEPTH:
                yield from self._walk(path, root, seen, depth + 1)
            else:
                self.notes.append(f"{quoted(path)} was passed over: it is nested too deeply")
