"""`docker-daemon:NAME[:TAG]`: an image of docker's daemon, by the Engine API over its socket (`GET /images/get`)."""

from __future__ import annotations

import json
import os
import socket
from collections.abc import Iterator
from contextlib import ExitStack, contextmanager
from http.client import HTTPConnection, HTTPException, HTTPResponse
from typing import TYPE_CHECKING, NoReturn
from urllib.parse import quote

from decoder import limits
from decoder.errors import ImageError, UsageError, quoted
from decoder.image.files.dockerarchive import DockerArchive
from decoder.image.files.spool import spooled
from decoder.image.files.tarindex import TarIndex
from decoder.node.network import explain

if TYPE_CHECKING:
    from decoder.image.transport import ImageSource, Options

_SOCKET = "/var/run/docker.sock"
_VARIABLE = "DOCKER_HOST"
_UNIX = "unix://"


@contextmanager
def open_source(name: str, place: str, _options: Options) -> Iterator[ImageSource]:
    """Export an image from the daemon to a temporary archive, and open the archive.

    Raises:
        UsageError: `place` is not the name of an image, or $DOCKER_HOST is not a socket.
        ImageError: the daemon does not answer, or does not have the image.
    """
    if not place or place.startswith("-"):
        raise UsageError(f"{name}:{place} is not of the form {name}:NAME[:TAG]")
    address = os.environ.get(_VARIABLE) or _UNIX + _SOCKET
    if not address.startswith(_UNIX):
        raise UsageError(f"${_VARIABLE} is {quoted(address)}; only unix:// can be used: try `docker save` in a pipe")
    path = address.removeprefix(_UNIX)
    daemon = f"docker's daemon at {quoted(path)}"
    with ExitStack() as stack:
        try:
            response = stack.enter_context(_asked(path, place))
        except (OSError, HTTPException) as error:
            raise ImageError(explain(error, daemon).text) from error
        try:
            file = stack.enter_context(spooled(response, f"{name}:{place}"))
        except (HTTPException, ConnectionError, TimeoutError) as error:
            raise ImageError(explain(error, daemon).text) from error
        except OSError as error:
            raise ImageError(f"{name}:{place}: {error.strerror}") from error
        yield DockerArchive(TarIndex(file, f"{name}:{place}"), f"{name}:{place}", "")


def open_target(name: str, _place: str, _options: Options) -> NoReturn:
    """Reject writing: the daemon's images cannot be encrypted, and `docker load` takes decrypted ones.

    Raises:
        UsageError: always.
    """
    raise UsageError(f"{name}: can only be read; to load a decrypted image, write to docker-archive:- | docker load")


class _Connection(HTTPConnection):
    """A connection over a Unix socket; each wait has a limit."""

    def __init__(self, path: str) -> None:
        super().__init__("docker", timeout=limits.DOCKER_SECONDS)
        self._path = path

    def connect(self) -> None:
        self.sock = socket.socket(socket.AF_UNIX)
        self.sock.settimeout(self.timeout)
        self.sock.connect(self._path)


@contextmanager
def _asked(path: str, image: str) -> Iterator[HTTPResponse]:
    connection = _Connection(path)
    try:
        connection.request("GET", f"/images/get?names={quote(image, safe='')}", headers={"Host": "docker"})
        response = connection.getresponse()
        if response.status != 200:
            raise ImageError(
                f"docker's daemon does not export {quoted(image)}: {_message(response)} (HTTP {response.status})"
            )
        yield response
    finally:
        connection.close()


def _message(response: HTTPResponse) -> str:
    try:
        return quoted(json.loads(response.read(limits.REGISTRY_ERROR_BYTES))["message"])[1:-1]
    except (ValueError, LookupError, TypeError, RecursionError):
        return "it does not return the image"
