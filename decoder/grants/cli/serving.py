"""`ctd-decoder grants approver`: the approver as a process, with its metrics."""

from __future__ import annotations

import os
import random
import signal
import threading
import time
from contextlib import suppress
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from typing import TYPE_CHECKING

from decoder.errors import DecoderError, UsageError, quoted
from decoder.grants.approver import Approver
from decoder.grants.cli.verbs import access_of, own_key
from decoder.grants.policy import Policy, read_policy
from decoder.node.unixsocket import ListenError

if TYPE_CHECKING:
    from argparse import Namespace

    from decoder.grants.keys import OwnKey

_PREFIX = "ctd_decoder_grants"
_REQUEST_SECONDS = 10


class RoundFailedError(DecoderError):
    """A repository could not be read or written; the lines before say why."""

    status = 7


def run(parsed: Namespace) -> None:
    """Approve until SIGTERM or SIGINT, or once.

    Raises:
        UsageError: the policy is malformed.
        ListenError: the metrics cannot be served.
        RoundFailedError: with --once, something failed.
    """
    policy = read_policy(parsed.policy)
    key = own_key(policy.key, policy.password_file)
    approver = Approver(access_of(parsed), _say, parsed.dry_run)
    if parsed.once:
        if not approver.round(policy, key):
            raise RoundFailedError("a repository could not be read or written")
        return
    stopping = threading.Event()
    for number in (signal.SIGTERM, signal.SIGINT):
        signal.signal(number, lambda *_: stopping.set())
    metrics = Metrics(approver)
    if parsed.metrics:
        _say(f"ctd-decoder: metrics at http://{metrics.serve(parsed.metrics)}/metrics")
    while not stopping.is_set():
        policy, key = _again(parsed.policy, policy, key)
        metrics.ended(went_well=approver.round(policy, key))
        stopping.wait(policy.interval * random.uniform(0.8, 1.2))  # noqa: S311 - so that replicas take turns
    _say("ctd-decoder: stopped")


def _again(path: str, policy: Policy, key: OwnKey) -> tuple[Policy, OwnKey]:
    """Read the policy again, which somebody may have changed; keep the earlier one if it cannot be used."""
    try:
        new = read_policy(path)
        return new, own_key(new.key, new.password_file)
    except UsageError as error:
        _say(f"ctd-decoder: warning: the policy cannot be used; the earlier one stays: {error}")
        return policy, key


class Metrics:
    """What Prometheus reads.

    Args:
        approver: counts.
    """

    def __init__(self, approver: Approver) -> None:
        self._approver = approver
        self._last = 0.0
        self._failed = 0

    def ended(self, went_well: bool) -> None:
        """Take note of a round."""
        if went_well:
            self._last = time.time()
        else:
            self._failed += 1

    def serve(self, address: str) -> str:
        """Serve them from another thread, and return where.

        Raises:
            UsageError: the address is malformed.
            ListenError: nobody can listen there.
        """
        host, colon, port = address.rpartition(":")
        if not colon or not port.isdecimal() or int(port) > 65535:
            raise UsageError(f"--metrics {quoted(address)} is not HOST:PORT")
        metrics = self

        class Handler(BaseHTTPRequestHandler):
            timeout = _REQUEST_SECONDS

            def do_GET(self) -> None:
                body = metrics.text().encode() if self.path == "/metrics" else b""
                self.send_response(200 if body else 404)
                self.send_header("Content-Type", "text/plain; version=0.0.4")
                self.send_header("Content-Length", str(len(body)))
                self.end_headers()
                self.wfile.write(body)

            def log_message(self, format: str, *args: object) -> None:  # noqa: A002 - likewise
                pass

        try:
            server = ThreadingHTTPServer((host, int(port)), Handler)
        except OSError as error:
            raise ListenError(f"cannot listen on {quoted(address)}: {error.strerror}") from error
        server.daemon_threads = True
        threading.Thread(target=server.serve_forever, daemon=True).start()
        return f"{server.server_address[0]!s}:{server.server_address[1]}"

    def text(self) -> str:
        """Return them in the text format."""
        rows = [f"# TYPE {_PREFIX}_decisions_total counter"]
        rows += [f'{_PREFIX}_decisions_total{{decision="{name}"}} {n}' for name, n in self._approver.counts.items()]
        rows += [f"# TYPE {_PREFIX}_requests_waiting gauge", f"{_PREFIX}_requests_waiting {self._approver.waiting}"]
        rows += [f"# TYPE {_PREFIX}_failed_rounds_total counter", f"{_PREFIX}_failed_rounds_total {self._failed}"]
        name = f"{_PREFIX}_last_good_round_timestamp_seconds"
        return "\n".join([*rows, f"# TYPE {name} gauge", f"{name} {self._last:.0f}"]) + "\n"


def _say(text: str) -> None:
    with suppress(OSError):  # nobody listens; the journal still does
        os.write(2, f"{text}\n".encode(errors="replace"))
