"""Check the keyproviders: their configuration, and whether each can be reached."""

from __future__ import annotations

import os
import shlex
import shutil
import stat
from datetime import UTC, datetime
from typing import TYPE_CHECKING

from decoder import limits
from decoder.doctor import probes
from decoder.doctor.finding import Finding
from decoder.doctor.probes import PartlyReachableError, UnreachableError
from decoder.errors import KeyFileError, quoted
from decoder.formats.certificates import UNREADABLE
from decoder.formats.expiry import earliest_end
from decoder.keys.file import read_key_file
from decoder.provider.client import config
from decoder.provider.errors import ProviderError
from decoder.provider.reach import reach_port, reach_socket

if TYPE_CHECKING:
    from collections.abc import Iterator

    from decoder.doctor.host import Host

_UNIX = "unix:"
_LOOPBACK = ("localhost", "127.", "[::1]", "::1")


def check(node: Host) -> Iterator[Finding]:
    """Read each configuration of keyproviders, and try to reach each provider."""
    for file, is_required in node.keyprovider_files.items():
        subject = f"keyproviders {file}"
        parsed = node.keyproviders.get(file)
        if parsed is None:
            if is_required:
                text = "there is no such file, but --keyprovider-config names it"
                yield Finding("error", subject, text, "create it, or remove the option")
            else:
                yield Finding("note", subject, "there is no such file, so no keyprovider is used")
        elif isinstance(parsed, str):
            text = f"it cannot be read, so no keyprovider is used: {parsed}"
            yield Finding("error", subject, text, "correct the file")
        else:
            yield from _check_file(file, node.place(file), subject)
            yield from (Finding("warning", subject, text, "check the spelling") for text in parsed.warnings)
            if not parsed.providers:
                yield Finding("ok", subject, "no keyprovider is configured")
            yield from (_reach(provider, node) for provider in parsed.providers)


def _check_file(file: str, place: str, subject: str) -> Iterator[Finding]:
    status = os.stat(place)
    if status.st_mode & (stat.S_IWGRP | stat.S_IWOTH):
        text = "others can write to it, so they can make containerd start their programs"
        yield Finding("error", subject, text, f"chmod 600 {shlex.quote(file)}")
    if status.st_uid not in (0, os.geteuid()):
        yield Finding("error", subject, f"it belongs to the user {status.st_uid}", f"chown root {shlex.quote(file)}")


def _reach(provider: config.Configured, node: Host) -> Finding:
    subject = f"keyprovider {provider.name}"
    transport = provider.transport
    if isinstance(transport, config.MalformedProvider):
        return Finding("error", subject, transport.reason, "correct its entry")
    text = "can be reached"
    try:
        if isinstance(transport, config.CommandProvider):
            _find(transport, node)
        elif isinstance(transport, config.GrpcProvider):
            _connect(transport, node)
        elif isinstance(transport, config.TtrpcProvider):
            reach_socket(node.place(_path(transport.address)), limits.PROVIDER_PROBE_SECONDS)
        else:
            text = probes.ask(transport)
    except PartlyReachableError as error:
        return Finding("warning", subject, str(error), f"see its entry: {transport.describe()}")
    except (UnreachableError, ProviderError) as error:
        return Finding("error", subject, str(error), f"see its entry: {transport.describe()}")
    certificate = transport.tls.cert_file if isinstance(transport, config.GrpcProvider) and transport.tls else ""
    if certificate and (expiring := _expiry(certificate, node, subject)):
        return expiring
    if _is_in_the_clear(transport):
        text = f"{transport.describe()} can be reached, but layer keys are sent to it without TLS"
        return Finding("warning", subject, text, "add grpc-tls to its entry")
    return Finding("ok", subject, f"{transport.describe()}: {text}")


def _expiry(file: str, node: Host, subject: str) -> Finding | None:
    """Check when our client certificate for the server expires."""
    try:
        end = earliest_end(read_key_file(node.place(file)))
    except (KeyFileError, *UNREADABLE) as error:
        return Finding("error", subject, f"the certificate {quoted(file)} cannot be read: {error}", "replace it")
    seconds = (end - datetime.now(UTC)).total_seconds()
    if seconds <= 0:
        text = f"the certificate {quoted(file)} expired at {end:%Y-%m-%d %H:%M} UTC, and the server refuses it"
        return Finding("error", subject, text, "renew it")
    if seconds < limits.CERTIFICATE_WARNING_SECONDS:
        text = f"the certificate {quoted(file)} expires at {end:%Y-%m-%d %H:%M} UTC"
        return Finding("warning", subject, text, "renew it, or see why it is not renewed")
    return None


def _is_in_the_clear(transport: config.Transport) -> bool:
    return (
        isinstance(transport, config.GrpcProvider)
        and transport.tls is None
        and not transport.address.startswith((_UNIX, *_LOOPBACK))
    )


def _find(command: config.CommandProvider, node: Host) -> None:
    """Find the program on containerd's PATH, as the decoder does."""
    found = command.path if "/" in command.path else shutil.which(command.path, path=node.path)
    if not found or not os.access(node.place(found), os.X_OK):
        raise UnreachableError(f"the program {quoted(command.path)} does not exist, or cannot be started")


def _connect(grpc: config.GrpcProvider, node: Host) -> None:
    """Connect and disconnect, without a request."""
    for file in (grpc.tls.root_ca_file, grpc.tls.cert_file, grpc.tls.key_file) if grpc.tls else ():
        if file and not os.access(node.place(file), os.R_OK):
            raise UnreachableError(f"the file {quoted(file)} cannot be read")
    if grpc.address.startswith(_UNIX):
        reach_socket(node.place(_path(grpc.address)), limits.PROVIDER_PROBE_SECONDS)
        return
    host, _, port = grpc.address.removeprefix("dns:").lstrip("/").rpartition(":")
    if not port.isdecimal():
        raise UnreachableError(f"the address {quoted(grpc.address)} has no port")
    reach_port(host, int(port), limits.PROVIDER_PROBE_SECONDS)


def _path(address: str) -> str:
    return address.removeprefix(_UNIX).removeprefix("//")
