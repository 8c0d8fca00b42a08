"""Logins at registries, as `docker login`, `podman login` and `skopeo login` store them.

They are in the file that $REGISTRY_AUTH_FILE names, or else in the first of these files that knows the registry, in the
order of containers-auth.json(5): $XDG_RUNTIME_DIR/containers/auth.json (/run/containers/UID/auth.json without that
variable), $XDG_CONFIG_HOME/containers/auth.json (default: ~/.config), $DOCKER_CONFIG/config.json (default: ~/.docker).
Each file may name credential helpers.
"""

from __future__ import annotations

import errno
import json
import os
import re
import signal
import subprocess
from base64 import b64decode
from collections.abc import Sequence
from contextlib import suppress
from threading import Timer
from typing import Any, NamedTuple

from decoder import limits
from decoder.errors import ImageError, quoted

_HELPER = re.compile(r"[A-Za-z0-9._-]+")
_TOKEN_USER = "<token>"  # noqa: S105 - the user name in helpers if the secret is an identity token
_DOCKER_HUB = ("https://index.docker.io/v1/", "index.docker.io", "docker.io", "registry-1.docker.io")
_NOT_FOUND = b"credentials not found"
_ROOTS = "/run/containers/"  # where root has run podman, others may not even look in there


class Login(NamedTuple):
    """A login: a name and password, or an identity token that can be exchanged for access tokens."""

    user: str
    password: str
    identity_token: str = ""


class Logins:
    """The logins of the current user.

    Args:
        authfile: the only file to read, or "" for the usual files.
        given: a login for every registry, instead of logins in files.
        further: files to read after the usual ones, such as the kubelet's, if this user may read them.
    """

    def __init__(self, authfile: str = "", given: Login | None = None, further: Sequence[str] = ()) -> None:
        self._authfile = authfile
        self._given = given
        self._further = further

    def find(self, host: str, repository: str) -> Login | None:
        """Return the given login, or find one in the files; see `find_login`."""
        return self._given or find_login(host, repository, self._authfile, self._further)[0]

    def refusal(self, host: str, repository: str) -> str:
        """Return a message about the login that a registry has refused, or the files that have none, and what to do.

        Raises:
            ImageError: a file cannot be read or is malformed, or a helper fails.
        """
        if self._given:
            return "it refuses the login of --creds"
        login, files = find_login(host, repository, self._authfile, self._further)
        commands = f"`docker login {host}` or `skopeo login {host}`"
        if login:
            return f"it refuses the login from {quoted(files[-1])}: log in again with {commands}, or use --creds"
        read = ", ".join(map(quoted, files))
        return f"it needs a login, and {read} (read in this order) have none for {host}: use {commands}, or --creds"


def find_login(
    host: str, repository: str, authfile: str = "", further: Sequence[str] = ()
) -> tuple[Login | None, list[str]]:
    """Find the login for a repository.

    In each file, the order is: a helper for this registry, the helper for all registries, the entry of the repository,
    of a folder that it is in (`podman login HOST/FOLDER`), and of the registry.

    Args:
        host: the registry's name in references, with its port if that was given.
        repository: the repository's name at the registry.
        authfile: the only file to read, or "" for the usual files.
        further: files to read after the usual ones.

    Returns:
        The login, or None; and the files that were read, in order.

    Raises:
        ImageError: a file cannot be read or is malformed, or a helper fails.
    """
    names = _DOCKER_HUB if host == "docker.io" else (host,)
    parts = repository.split("/")
    folders = [f"{host}/{'/'.join(parts[:count])}" for count in range(len(parts), 0, -1)]
    paths = [authfile] if authfile else list(dict.fromkeys((*_paths(), *further)))
    if authfile and not os.path.exists(authfile):
        raise ImageError(f"--authfile {quoted(authfile)}: {os.strerror(errno.ENOENT)}")
    for number, path in enumerate(paths, 1):
        shown = f"--authfile {quoted(path)}" if authfile else quoted(path)
        try:
            is_ours = path not in further and not path.startswith(_ROOTS)
            if login := _in_file(_read(path, shown, is_ours), names, folders):
                return login, paths[:number]
        except ValueError as error:
            raise ImageError(f"{shown}: {error}") from error
    return None, paths


def _paths() -> list[str]:
    variable, home = os.environ.get, os.path.expanduser("~")
    if path := variable("REGISTRY_AUTH_FILE"):
        return [path]
    runtime = variable("XDG_RUNTIME_DIR")
    return [
        f"{runtime}/containers/auth.json" if runtime else f"{_ROOTS}{os.getuid()}/auth.json",
        f"{variable('XDG_CONFIG_HOME') or f'{home}/.config'}/containers/auth.json",
        f"{variable('DOCKER_CONFIG') or f'{home}/.docker'}/config.json",
    ]


def _in_file(config: dict[str, Any], names: tuple[str, ...], folders: list[str]) -> Login | None:
    helpers = _object(config.get("credHelpers"))
    helper = next((helpers[name] for name in names if name in helpers), config.get("credsStore"))
    login = _ask(helper, names[0]) if helper else None
    entries = _object(config.get("auths"))
    below = (_entry(_object(entries[folder])) for folder in folders if folder in entries)
    return login or next(filter(None, below), None) or _stored(entries, names)


def _read(path: str, shown: str, is_ours: bool) -> dict[str, Any]:
    try:
        with open(path, "rb") as file:
            data = file.read(limits.DOCKER_CONFIG_BYTES + 1)
    except (FileNotFoundError, NotADirectoryError):
        return {}
    except PermissionError as error:
        if not is_ours:  # the kubelet's files belong to root
            return {}
        raise ImageError(f"{shown}: {error.strerror}") from error
    except OSError as error:
        raise ImageError(f"{shown}: {error.strerror}") from error
    if len(data) > limits.DOCKER_CONFIG_BYTES:
        raise ImageError(f"{shown} has more than {limits.DOCKER_CONFIG_BYTES} bytes")
    try:
        return _object(json.loads(data))
    except (ValueError, RecursionError) as error:
        raise ImageError(f"{shown} is not a JSON object") from error


def _object(value: object) -> dict[str, Any]:
    if value is None:
        return {}
    if not isinstance(value, dict):
        raise ValueError("expected a JSON object")
    return value


def _stored(entries: dict[str, Any], names: tuple[str, ...]) -> Login | None:
    """Return the entry of a host, which may be named by a URL, as older versions of docker did."""
    for name in (*names, *entries):
        if name in entries and (name in names or _host(name) in names) and (login := _entry(_object(entries[name]))):
            return login
    return None


def _host(name: str) -> str:
    """Return the host of a URL, or "". Other names may be repositories, whose logins are not for the whole registry."""
    scheme, separator, rest = name.partition("://")
    return rest.partition("/")[0] if separator and scheme in ("http", "https") else ""


def _entry(entry: dict[str, Any]) -> Login | None:
    user, password = _text(entry.get("username")), _text(entry.get("password"))
    if encoded := _text(entry.get("auth")):
        try:
            user, separator, password = b64decode(encoded, validate=True).decode().rstrip("\0").partition(":")
        except ValueError:
            separator = ""
        if not separator:
            raise ValueError("an `auth` that is not the base64 of a name and password")
    token = _text(entry.get("identitytoken"))
    return Login(user, password, token) if user or token else None


def _text(value: object) -> str:
    return value if isinstance(value, str) else ""


def _ask(helper: object, name: str) -> Login | None:
    """Return the login from docker-credential-HELPER, which gets the registry and prints JSON."""
    if not isinstance(helper, str) or not _HELPER.fullmatch(helper):
        raise ValueError(f"{quoted(helper)} is not the name of a credential helper")
    program = f"docker-credential-{helper}"
    status, output = _run(program, name.encode())
    if status and _NOT_FOUND in output:
        return None
    if status or len(output) > limits.CREDENTIAL_HELPER_BYTES:
        raise ImageError(f"{program} failed for {name}" if status else f"{program} wrote too much for {name}")
    try:
        reply = _object(json.loads(output))
    except (ValueError, RecursionError) as error:
        raise ImageError(f"{program} did not reply with a JSON object for {name}") from error
    user, secret = _text(reply.get("Username")), _text(reply.get("Secret"))
    return Login("", "", secret) if user == _TOKEN_USER else Login(user, secret) if user else None


def _run(program: str, request: bytes) -> tuple[int, bytes]:
    """Run a helper for at most CREDENTIAL_HELPER_SECONDS; it writes its messages to standard error."""
    try:
        process = subprocess.Popen(  # noqa: S603 - the user configured it
            [program, "get"], stdin=subprocess.PIPE, stdout=subprocess.PIPE, start_new_session=True
        )
    except OSError as error:
        raise ImageError(f"{program} cannot be started: {error.strerror}") from error
    assert process.stdin is not None  # noqa: S101 - both were asked for
    assert process.stdout is not None  # noqa: S101
    timer = Timer(limits.CREDENTIAL_HELPER_SECONDS, _kill, [process.pid])
    with process:
        timer.start()
        try:
            with suppress(BrokenPipeError):
                process.stdin.write(request)
                process.stdin.close()
            output = process.stdout.read(limits.CREDENTIAL_HELPER_BYTES + 1)
            if len(output) > limits.CREDENTIAL_HELPER_BYTES:
                _kill(process.pid)
            status = process.wait()
        finally:
            timer.cancel()
            if process.returncode is None:
                _kill(process.pid)
    if status == -signal.SIGKILL and len(output) <= limits.CREDENTIAL_HELPER_BYTES:
        raise ImageError(f"{program} did not end within {limits.CREDENTIAL_HELPER_SECONDS:g} seconds")
    return status, output


def _kill(group: int) -> None:
    with suppress(ProcessLookupError):
        os.killpg(group, signal.SIGKILL)
