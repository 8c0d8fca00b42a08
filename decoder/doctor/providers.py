"""The keyproviders that are configured: can each be reached? Nothing is asked of them."""

from __future__ import annotations

import os
import shutil
import socket
import stat

from decoder import limits
from decoder.doctor.finding import Finding
from decoder.errors import DecoderError, KeyFileError, quoted
from decoder.keys.file import read_key_file
from decoder.provider.client import config
from decoder.provider.errors import ProviderError

_UNIX = "unix:"
_LOOPBACK = ("localhost", "127.", "[::1]", "::1")


class _UnreachableError(Exception):
    """Why a provider cannot be reached."""


def examine(file: str, path: str, findings: list[Finding]) -> None:
    """Read the configuration of keyproviders, and try to reach each.

    Args:
        file: the configuration.
        path: where containerd looks for programs.
        findings: takes what was found.
    """
    subject = f"keyproviders {file}"
    if not os.path.lexists(file):
        findings.append(Finding("ok", subject, "there is no such file, so there are none"))
        return
    try:
        parsed = config.parse_config(read_key_file(file))
    except (KeyFileError, ProviderError) as error:
        remedy = "correct it; no keyprovider works until then"
        findings.append(Finding("error", subject, f"it cannot be read: {error}", remedy))
        return
    if os.stat(file).st_mode & (stat.S_IWGRP | stat.S_IWOTH):
        text = "others can write it, and so run programs as root"
        findings.append(Finding("error", subject, text, f"chmod 600 {file}"))
    findings.extend(Finding("warning", subject, warning, "see whether it is misspelt") for warning in parsed.warnings)
    if not parsed.providers:
        findings.append(Finding("ok", subject, "none is configured"))
    findings.extend(_reach(provider, path) for provider in parsed.providers)


def _reach(provider: config.Configured, path: str) -> Finding:
    subject = f"keyprovider {provider.name}"
    transport = provider.transport
    if isinstance(transport, config.MalformedProvider):
        return Finding("error", subject, transport.reason, "correct its entry")
    try:
        if isinstance(transport, config.CommandProvider):
            _find(transport, path)
        elif isinstance(transport, config.GrpcProvider):
            _connect(transport)
        elif isinstance(transport, config.TtrpcProvider):
            _connect_socket(transport.address)
        else:
            _create(transport)
    except _UnreachableError as error:
        return Finding("error", subject, str(error), f"see its entry: {transport.describe()}")
    if (
        isinstance(transport, config.GrpcProvider)
        and transport.tls is None
        and not transport.address.startswith((_UNIX, *_LOOPBACK))
    ):
        text = f"{transport.describe()} answers, and layer keys go to it without TLS"
        return Finding("warning", subject, text, "add grpc-tls")
    return Finding("ok", subject, f"{transport.describe()} can be reached")


def _find(command: config.CommandProvider, path: str) -> None:
    if not shutil.which(command.path, path=path):
        raise _UnreachableError(f"there is no program {quoted(command.path)} that could be started")


def _connect(grpc: config.GrpcProvider) -> None:
    """Connect, and no more: the server sees a client that goes away."""
    for file in (grpc.tls.root_ca_file, grpc.tls.cert_file, grpc.tls.key_file) if grpc.tls else ():
        if file and not os.access(file, os.R_OK):
            raise _UnreachableError(f"the file {quoted(file)} cannot be read")
    try:
        if grpc.address.startswith(_UNIX):
            _connect_socket(grpc.address)
        else:
            host, _, port = grpc.address.removeprefix("dns:").lstrip("/").rpartition(":")
            socket.create_connection((host.strip("[]"), int(port)), limits.PROVIDER_PROBE_SECONDS).close()
    except (OSError, ValueError) as error:
        raise _UnreachableError(f"no connection: {getattr(error, 'strerror', None) or error}") from None


def _connect_socket(address: str) -> None:
    try:
        with socket.socket(socket.AF_UNIX, socket.SOCK_STREAM) as connection:
            connection.settimeout(limits.PROVIDER_PROBE_SECONDS)
            connection.connect(address.removeprefix(_UNIX).removeprefix("//"))
    except OSError as error:
        raise _UnreachableError(f"no connection: {error.strerror or error}") from None


def _create(native: config.NativeProvider) -> None:
    from decoder import provider
    from decoder.provider.deadline import within

    try:
        within(limits.PROVIDER_PROBE_SECONDS, lambda: provider.create(native.provider, native.options))
    except DecoderError as error:
        raise _UnreachableError(str(error)) from None
    except Exception as error:  # noqa: BLE001 - a library's; its text may hold a secret
        raise _UnreachableError(f"it failed in a way that was not foreseen ({type(error).__name__})") from None
