"""`keyprovider serve`: its options, its processes, and the memory that they share."""

from __future__ import annotations

from typing import TYPE_CHECKING

from decoder import commandline, limits
from decoder.errors import UsageError
from decoder.extras import missing
from decoder.provider import create
from decoder.provider.errors import ProviderError
from decoder.provider.server import processes, sharedkeks
from decoder.provider.server.clients.rates import Rates
from decoder.provider.server.numbers.tally import Tally
from decoder.provider.server.service import Service

if TYPE_CHECKING:
    from argparse import Namespace

    from decoder.commandline import Parser
    from decoder.provider.audit import Observer
    from decoder.provider.keks import Keks
    from decoder.provider.server.numbers.tally import Row

_LOOPBACK = "127.0.0.1"


def add_options(parser: Parser) -> set[str]:
    """Add the options of `serve`, and return their names."""
    group = parser.add_argument_group("options of the server")
    group.add_argument(
        "--listen", default="", metavar="ADDRESS", help="HOST:PORT, or unix:///path of a socket to create"
    )
    group.add_argument("--grpcport", default="", metavar="[HOST]:PORT", help="like --listen; without a host: loopback")
    group.add_argument("--tls-cert", default="", metavar="FILE", help="the server's certificate and its issuers, PEM")
    group.add_argument("--tls-key", default="", metavar="FILE", help="the private key of the certificate, PEM")
    group.add_argument(
        "--client-ca", default="", metavar="FILE", help="accept only clients with a certificate of one of these CAs"
    )
    group.add_argument(
        "--client-policy", default="", metavar="FILE", help="rules about which client may use which key (TOML)"
    )
    group.add_argument(
        "--processes",
        type=int,
        metavar="N",
        help=f"the number of processes (default: one per processor, at most {limits.PROVIDER_SERVER_PROCESSES})",
    )
    group.add_argument(
        "--metrics", default="", metavar="[HOST]:PORT", help="serve /metrics, /healthz and /readyz there, without TLS"
    )
    group.add_argument("--insecure", action="store_true", help="listen beyond this machine without TLS")
    return {
        "listen",
        "grpcport",
        "tls-cert",
        "tls-key",
        "client-ca",
        "client-policy",
        "insecure",
        "processes",
        "metrics",
    }


def serve(name: str, options: dict[str, object], parsed: Namespace) -> int:
    """Serve until SIGTERM or SIGINT.

    Args:
        name: the provider's name.
        options: the provider's options.
        parsed: the options of the server.

    Returns:
        The exit status.

    Raises:
        UsageError: the options contradict each other.
        ProviderError: a library is not installed, or the provider cannot be created.
        ListenError: the server cannot listen at its address, or a file cannot be used.
    """
    try:
        from decoder.provider.server import grpc as server
        from decoder.provider.server import tls, watch
        from decoder.provider.server.connections import listening
    except ImportError as error:
        raise ProviderError(missing("grpc", error)) from error

    security = tls.Security(parsed.tls_cert, parsed.tls_key, parsed.client_ca, parsed.insecure, parsed.client_policy)
    address = _address(parsed)
    listening.check(address, security)
    count = _processes(parsed, listening.is_unix(address))

    def say(text: str) -> None:
        commandline.say(f"ctd-decoder: {name}: {text}")

    with (
        watch.listener(parsed.metrics, say) as probes,
        listening.listening(address, count, is_for_all=bool(parsed.client_policy)) as (where, sockets),
    ):
        tally, rates, kept = Tally(count), Rates(), sharedkeks.create_file()

        def listens() -> None:
            server.say_listening(address, where, security, say)

        def work(child: processes.Child | None = None) -> None:
            number = child.number if child else 0
            row = tally.rows[number]
            service = Service(create(name, options, commandline.say, _keks(kept), _observer(row)), parsed.provider_name)
            door = server.Door(sockets[number], security, rates)
            ready = child.tell_ready if child else listens
            server.serve(service, door, say, watch.Counted(tally, row, probes), ready, child)

        status: int | None = 0
        if count == 1:
            work()
        else:
            status = processes.run(count, work, listens, say, lambda number: tally.rows[number].clear(), sockets)
    if status == 0:  # it is None in a process of several
        say("stopped")
    return status or 0


def _observer(row: Row) -> Observer:
    """Count the calls of the key service."""

    def observe(operation: str, seconds: float, succeeded: bool) -> None:
        row.add("backend_requests", operation, "ok" if succeeded else "failed")
        row.observe("backend_seconds", operation, seconds)

    return observe


def _processes(parsed: Namespace, is_unix: bool) -> int:
    """Return the number of processes: one at a Unix socket, where the kernel cannot spread connections."""
    if parsed.processes is None:
        return 1 if is_unix else processes.default_count()
    if not 1 <= parsed.processes <= limits.PROVIDER_SERVER_MAX_PROCESSES:
        raise UsageError(f"--processes is a number from 1 to {limits.PROVIDER_SERVER_MAX_PROCESSES}")
    if is_unix and parsed.processes > 1:
        raise UsageError("--processes: only one process can serve a Unix socket")
    return int(parsed.processes)


def _keks(file: int) -> Keks | None:
    try:
        return sharedkeks.SharedKeks(limits.KEK_SECONDS, file)
    except OSError as error:
        commandline.say(f"warning: key-encryption keys are not kept: their memory cannot be locked: {error.strerror}")
        return None


def _address(parsed: Namespace) -> str:
    """Return --listen, or --grpcport, its name in the published provider for Google's service."""
    if parsed.listen:
        return str(parsed.listen)
    if not parsed.grpcport:
        raise UsageError("--listen is missing")
    host, _, port = parsed.grpcport.rpartition(":")
    is_protected = parsed.tls_cert or parsed.insecure
    return parsed.grpcport if host or is_protected else f"{_LOOPBACK}:{port}"
