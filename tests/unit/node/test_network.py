"""What goes wrong with hosts, in words."""

from __future__ import annotations

import http.client
import itertools
import socket
import ssl

import pytest
import requests
import urllib3

from decoder.node import network


def _certificate(code: int, message: str) -> ssl.SSLCertVerificationError:
    error = ssl.SSLCertVerificationError(1, "x")
    error.verify_code, error.verify_message = code, message
    return error


def _tls(reason: str) -> ssl.SSLError:
    error = ssl.SSLError(1, "x")
    error.reason = reason
    return error


@pytest.mark.parametrize(
    ("error", "kind", "text", "may_pass"),
    [
        (
            _certificate(10, "certificate has expired"),
            "certificate",
            "the certificate of H is not accepted: it has expired (certificate has expired)",
            False,
        ),
        (_certificate(62, "Hostname mismatch"), "certificate", "it is for another name", False),
        (_certificate(20, "no issuer"), "certificate", "it is not from a trusted authority", False),
        (_certificate(99, "odd\n"), "certificate", r"not accepted: odd\n", False),
        (_tls("WRONG_VERSION_NUMBER"), "tls", "it does not speak TLS", False),
        (_tls("TLSV13_ALERT_CERTIFICATE_REQUIRED"), "tls", "it may ask for a client certificate", False),
        (_tls("TLSV1_ALERT_UNKNOWN_CA"), "tls", "it does not accept our client certificate", False),
        (_tls("SOMETHING"), "tls", "there is no TLS connection with H: SOMETHING", False),
        (ssl.SSLEOFError(8, "EOF"), "ended", "H ended the connection", True),
        (ConnectionResetError(104, "reset"), "ended", "H ended the connection", True),
        (http.client.RemoteDisconnected("x"), "ended", "H ended the connection", True),
        (TimeoutError(), "late", "H did not answer in time", True),
        (requests.ReadTimeout(), "late", "H did not answer in time", True),
        (
            urllib3.exceptions.ReadTimeoutError(urllib3.HTTPConnectionPool("h"), "/", "x"),
            "late",
            "H did not answer in time",
            True,
        ),
        (socket.gaierror(-2, "Name or service not known"), "unknown", "the host H cannot be found: Name", False),
        (ConnectionRefusedError(111, "Connection refused"), "refused", "H cannot be reached: Connection refused", True),
        (OSError(113, "No route to host"), "unreachable", "H cannot be reached: No route to host", True),
        (requests.exceptions.ProxyError("x"), "unreachable", "through the proxy", True),
        (http.client.BadStatusLine("x"), "protocol", "H does not speak HTTP as expected (BadStatusLine)", False),
    ],
)
def test_each_failure_has_its_words(error: BaseException, kind: str, text: str, may_pass: bool) -> None:
    failure = network.explain(error, "H")
    assert (failure.kind, failure.may_pass) == (kind, may_pass)
    assert text in failure.text


def test_the_innermost_cause_counts() -> None:
    refused = ConnectionRefusedError(111, "Connection refused")
    inner = urllib3.exceptions.MaxRetryError(urllib3.HTTPConnectionPool("h"), "/secret", refused)
    outer = requests.ConnectionError(inner)
    outer.__cause__ = outer.__context__ = inner
    assert network.explain(outer, "H") == network.Failure("refused", "H cannot be reached: Connection refused")


def test_retry_after_is_in_seconds() -> None:
    assert [network.retry_after(text) for text in ("7", " 12 ", "Wed, 21 Oct", "-1", "9" * 12, "", None)] == [
        *(7, 12),
        *[0] * 5,
    ]


def test_pauses_grow_to_their_bound_and_are_random() -> None:
    runs = [list(itertools.islice(network.pauses(0.25, 4), 12)) for _ in range(200)]
    for index, bound in enumerate((0.25, 0.5, 1, 2, *[4] * 8)):
        found = [run[index] for run in runs]
        assert 0 <= min(found) < bound / 4
        assert bound * 3 / 4 < max(found) <= bound


@pytest.mark.parametrize(
    ("host", "expected"),
    [("127.0.0.1", True), ("127.9.9.9", True), ("::1", True), ("localhost", True), ("192.0.2.1", False), ("a", False)],
)
def test_loopback(host: str, expected: bool) -> None:
    assert network.is_loopback(host) == expected
