"""What the commands print arrives: in a pipe, with Python's own buffering, and with an error where it cannot."""

from __future__ import annotations

import os
import subprocess

import pytest

from decoder import arguments
from tests.support.processes import PROGRAM

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


def run(command: tuple[str, ...], redirection: str = "") -> subprocess.CompletedProcess[str]:
    """Run the program as users do, whose environment does not tell Python to write without a buffer."""
    environment = {name: value for name, value in os.environ.items() if name != "PYTHONUNBUFFERED"}
    shell = ["sh", "-c", f'exec "$0" "$@" {redirection}', PROGRAM, *command]
    return subprocess.run(shell, capture_output=True, text=True, timeout=60, check=False, env=environment)


@everything_printed
def test_in_a_pipe(command: tuple[str, ...]) -> None:
    result = run(command)
    assert (result.returncode, result.stderr) == (0, "")
    if "--help" in command:
        assert result.stdout.startswith("usage: ctd-decoder ")
    assert len(result.stdout.splitlines()) >= (5 if len(command) > 1 else 1)


@everything_printed
def test_on_a_full_disk(command: tuple[str, ...]) -> None:
    result = run(command, ">/dev/full")
    assert result.returncode == 7
    assert result.stderr == "ctd-decoder: error: standard output: No space left on device\n"


def test_the_list_has_every_command() -> None:
    listed = {arguments.COMMANDS[command[0]] for command in COMMANDS if command}
    assert listed == set(arguments.COMMANDS.values())


@pytest.mark.parametrize("command", [("--version",), ("config", "containerd")], ids=" ".join)
def test_closed(command: tuple[str, ...]) -> None:
    result = run(command, ">&-")
    assert result.returncode == 7
    assert result.stderr == "ctd-decoder: error: standard output: Bad file descriptor\n"


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
    assert result.returncode == 2, result.stderr
    assert suggestion in result.stderr
    assert result.stderr.count("\n") == 1
