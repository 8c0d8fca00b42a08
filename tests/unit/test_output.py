"""What the commands print arrives: in a pipe, with Python's own buffering, and with an error where it cannot."""

from __future__ import annotations

import os
import subprocess

import pytest

from decoder import arguments
from tests.support.image.command import Ended, decoded
from tests.support.program.processes import PROGRAM, run_program

COMMANDS = [
    (),
    ("image",),
    ("image", "encrypt"),
    ("image", "decrypt"),
    ("image", "layerinfo"),
    ("image", "check"),
    ("image", "rewrap"),
    ("image", "keygen"),
    ("keyprovider",),
    ("keyprovider", "run"),
    ("keyprovider", "serve"),
    ("keyprovider", "run", "--provider", "local"),
    ("keyprovider", "serve", "--provider", "local"),
    ("keyprovider", "attestation-agent"),
    ("keyprovider", "attestation-agent", "register"),
    ("config",),
    ("config", "containerd"),
    ("doctor",),
    ("grants",),
    *(("grants", verb) for verb in ("list", "approve", "deny", "revoke", "log", "fingerprint", "wrap-key", "approver")),
    ("agent",),
    ("agent", "status"),
    ("agent", "stop"),
    ("coco",),
    ("coco", "initdata"),
]
PRINTING = [("--version",), ("config", "containerd"), *((*command, "--help") for command in COMMANDS)]
everything_printed = pytest.mark.parametrize("command", PRINTING, ids=" ".join)
few_printed = pytest.mark.parametrize(
    "command", [("--version",), ("config", "containerd"), ("image", "--help")], ids=" ".join
)
FULL = (7, "", "ctd-decoder: error: standard output: No space left on device\n")


def start(command: tuple[str, ...], redirection: str = "", unbuffered: str = "") -> Ended:
    """Start the program as users do, whose environment does not tell Python to write without a buffer, or as others."""
    environment = {**os.environ, "PYTHONUNBUFFERED": unbuffered}
    shell = ["sh", "-c", f'exec "$0" "$@" {redirection}', PROGRAM, *command]
    return decoded(subprocess.run(shell, capture_output=True, timeout=60, check=False, env=environment))


def run(command: tuple[str, ...]) -> Ended:
    return decoded(run_program(command, 60))


@everything_printed
def test_in_a_pipe(command: tuple[str, ...]) -> None:
    result = run(command)
    assert (result.status, result.errors) == (0, "")
    if "--help" in command:
        assert result.output.startswith("usage: ctd-decoder ")
    assert len(result.output.splitlines()) >= (5 if len(command) > 1 else 1)


@everything_printed
def test_on_a_full_disk(command: tuple[str, ...]) -> None:
    with open("/dev/full", "wb") as full:
        assert decoded(run_program(command, 60, output=full.fileno())) == FULL


@few_printed
def test_a_new_process(command: tuple[str, ...]) -> None:
    """The program that is started by itself prints what it prints in a fork, which is how most tests run it."""
    assert start(command) == run(command)
    assert start(command, ">/dev/full") == FULL
    assert start(command, ">/dev/full", unbuffered="1") == FULL


def test_the_list_has_every_command() -> None:
    listed = {arguments.COMMANDS[command[0]] for command in COMMANDS if command}
    assert listed == set(arguments.COMMANDS.values())


@few_printed
def test_closed(command: tuple[str, ...]) -> None:
    assert start(command, ">&-") == (7, "", "ctd-decoder: error: standard output: Bad file descriptor\n")


@pytest.mark.parametrize(
    ("command", "suggestion"),
    [
        ("encypt", "unexpected argument 'encypt'"),
        ("imgae", "(did you mean image?)"),
        ("--decryption-key-path x", "(did you mean --decryption-keys-path?)"),
        ("image encypt a b", "unknown word 'encypt' (did you mean encrypt?); expected encrypt, decrypt,"),
        ("image encrypt --recipent jwe:key.pub a b", "unknown option '--recipent' (did you mean --recipient?)"),
        ("image encrypt --recipent=jwe:key.pub", "unknown option '--recipent' (did you mean --recipient?)"),
        ("keyprovider rnu", "unknown word 'rnu' (did you mean run?); expected run, serve, attestation-agent"),
        ("keyprovider run --provider local --allow-kye x", "(did you mean --allow-key?)"),
        ("doctor --jsn", "(did you mean --json?)"),
        ("agent statsu", "(did you mean status?)"),
        ("config containrd", "(did you mean containerd?)"),
        ("config containerd --key-path /keys", "(did you mean --keys-path?)"),
    ],
)
def test_the_nearest_spelling(command: str, suggestion: str) -> None:
    result = run(tuple(command.split()))
    assert result.status == 2, result.errors
    assert suggestion in result.errors
    assert result.errors.count("\n") == 1
