"""`keyprovider serve` under load: its start, its certificates, and the processor time that it takes."""

from __future__ import annotations

import datetime
import os
from collections.abc import Iterator
from contextlib import ExitStack, contextmanager
from pathlib import Path
from typing import NamedTuple

from cryptography import x509
from cryptography.hazmat.primitives import hashes, serialization
from cryptography.hazmat.primitives.asymmetric import ec
from cryptography.x509.oid import NameOID

from bench import programs

HOST = "keyprovider.bench"  # in the server's certificate
_CONTROL_GROUPS = Path("/sys/fs/cgroup")
_PERIOD = 20_000  # microseconds
_TICKS = os.sysconf("SC_CLK_TCK")


class Server(NamedTuple):
    """A server that runs.

    Attributes:
        target: the address at which it listens.
        processes: the processes that answer calls.
        directory: the directory with ca.pem, client.pem and client.key.
    """

    target: str
    processes: list[int]
    directory: Path

    def seconds(self) -> float:
        """Return the processor time that its processes have taken so far."""
        return sum(_seconds(process) for process in self.processes)


@contextmanager
def serving(directory: Path, processes: int, provider: list[str], share: float = 0) -> Iterator[Server]:
    """Serve with mutual TLS.

    Args:
        directory: the directory for keys and certificates.
        processes: the number of processes.
        provider: the options of the provider.
        share: the part of one processor that each process gets at most, so that clients on the same machine have the
            rest; 0 for no bound. Needs root and the control group controller `cpu`.

    Raises:
        RunError: it does not start.
        OSError: no control group can be made.
    """
    _write_certificates(directory)
    files = {"tls-cert": "server.pem", "tls-key": "server.key", "client-ca": "ca.pem"}
    command = [
        *(str(programs.PIP_PROGRAM), "keyprovider", "serve", "--listen", "127.0.0.1:0", "--processes", str(processes)),
        *(text for option, name in files.items() for text in (f"--{option}", str(directory / name))),
        *provider,
    ]
    with ExitStack() as stack:
        process, target = stack.enter_context(programs.serving(command, "listening on "))
        workers = programs.children(process.pid) or [process.pid]
        for worker in workers if share else ():
            stack.enter_context(_confined(worker, share))
        yield Server(target.split()[0], workers, directory)


def _seconds(process: int) -> float:
    fields = Path(f"/proc/{process}/stat").read_text().rpartition(")")[2].split()
    return (int(fields[11]) + int(fields[12])) / _TICKS


@contextmanager
def _confined(process: int, share: float) -> Iterator[None]:
    """Bound the processor time of a process, by control groups of version 1 or 2 (cgroups(7))."""
    is_first = (_CONTROL_GROUPS / "cpu").is_dir()
    parent = _CONTROL_GROUPS / "cpu" if is_first else _CONTROL_GROUPS
    group = parent / f"ctd-decoder-bench-{process}"
    group.mkdir()
    try:
        if is_first:
            (group / "cpu.cfs_period_us").write_text(str(_PERIOD))
            (group / "cpu.cfs_quota_us").write_text(str(int(_PERIOD * share)))
        else:
            (group / "cpu.max").write_text(f"{int(_PERIOD * share)} {_PERIOD}")
        (group / "cgroup.procs").write_text(str(process))
        yield
    finally:
        (parent / "cgroup.procs").write_text(str(process))
        group.rmdir()


def _write_certificates(directory: Path) -> None:
    """Write an authority, and a certificate of it for the server and for clients."""
    authority, signer = _certificate("authority", None, None)
    (directory / "ca.pem").write_bytes(authority.public_bytes(serialization.Encoding.PEM))
    for name in ("server", "client"):
        certificate, key = _certificate(name, authority, signer)
        (directory / f"{name}.pem").write_bytes(certificate.public_bytes(serialization.Encoding.PEM))
        encoding, form = serialization.Encoding.PEM, serialization.PrivateFormat.PKCS8
        (directory / f"{name}.key").write_bytes(key.private_bytes(encoding, form, serialization.NoEncryption()))


def _certificate(
    name: str, issuer: x509.Certificate | None, signer: ec.EllipticCurvePrivateKey | None
) -> tuple[x509.Certificate, ec.EllipticCurvePrivateKey]:
    key = ec.generate_private_key(ec.SECP256R1())
    subject = x509.Name([x509.NameAttribute(NameOID.COMMON_NAME, name)])
    now, day = datetime.datetime.now(datetime.UTC), datetime.timedelta(days=1)
    builder = x509.CertificateBuilder(
        issuer.subject if issuer else subject,
        subject,
        key.public_key(),
        x509.random_serial_number(),
        now - day,
        now + day,
    )
    builder = builder.add_extension(x509.BasicConstraints(issuer is None, None), critical=True)
    builder = builder.add_extension(x509.SubjectAlternativeName([x509.DNSName(HOST)]), critical=False)
    return builder.sign(signer or key, hashes.SHA256()), key
