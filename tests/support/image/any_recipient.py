"""Encrypt a small image to a recipient that may be good or bad, and open its layer with every decoder."""

from __future__ import annotations

import shutil
from typing import TYPE_CHECKING, Any

from decoder.formats import wire
from tests.support.image import images, layouts
from tests.support.image.command import image, oci
from tests.support.image.images import Layout
from tests.support.program.processes import PROGRAM, REFERENCE, payload_bytes, run_decoder

if TYPE_CHECKING:
    from pathlib import Path


class Trial:
    """A plain image of one layer, and the place where it is encrypted to.

    Args:
        directory: an empty one.
    """

    def __init__(self, directory: Path) -> None:
        self.directory = directory
        self._source = Layout(directory / "source")
        layouts.publish(self._source, layouts.add_image(self._source, "amd64", [layouts.tar("only")], images.GZIP))
        (root,) = layouts.roots(self._source)
        (layer,) = layouts.layers_of(self._source, root)
        self._plaintext = self._source.read(layer)

    def encrypt(self, recipient: str, *options: str, **environment: str) -> Encrypted | str:
        """Return the encrypted layer, or the one line that says why nothing was written."""
        target = Layout(self.directory / "target")
        shutil.rmtree(target.directory, ignore_errors=True)
        ended = image("encrypt", oci(self._source), oci(target), "--recipient", recipient, *options, **environment)
        if ended.status == 0:
            (layer,) = target.layers
            assert layer["mediaType"].endswith("+encrypted")
            return Encrypted(layer, target.read(layer), self._plaintext)
        assert ended.status == 2, ended.errors
        assert not (target.directory / "index.json").exists()
        line = ended.errors.splitlines()[-1]
        assert line.startswith("ctd-decoder: error: "), ended.errors
        assert "Traceback" not in ended.errors
        return line


class Encrypted:
    """A layer that was encrypted."""

    def __init__(self, descriptor: dict[str, Any], ciphertext: bytes, plaintext: bytes) -> None:
        self._descriptor = descriptor
        self._ciphertext = ciphertext
        self._plaintext = plaintext

    def wrapped(self, scheme: str) -> bytes:
        """Return its only wrapped key of a scheme."""
        return wire.decode_base64(self._descriptor["annotations"][f"org.opencontainers.image.enc.keys.{scheme}"])

    def assert_opens(self, parameters: dict[str, list[bytes]], *, with_reference: bool) -> None:
        """Decrypt it with our decoder, and with the reference if that knows this kind of key."""
        payload = payload_bytes(self._descriptor, parameters)
        for program in (PROGRAM, REFERENCE) if with_reference else (PROGRAM,):
            result = run_decoder(payload, self._ciphertext, program=program)
            assert (result.status, result.plaintext) == (0, self._plaintext), (program, result.errors)
