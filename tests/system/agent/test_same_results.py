"""The result does not depend on the agent: plaintext, message and exit status are those of the program."""

from __future__ import annotations

import json
import os
import resource
import subprocess
from contextlib import suppress
from pathlib import Path
from typing import Any

import pytest

from decoder import limits
from tests.support.keywrap.layers import encrypted, pem, rsa_key
from tests.support.keywrap.vectors import CASES, NAMES, run_case
from tests.support.program.agent import Agent, Place, wait_until
from tests.support.program.onelayer import PLAINTEXT, run_layer
from tests.support.program.processes import PROGRAM, Result, payload_bytes, run_decoder
from tests.support.provider.client_parts import decrypt, script, turning_command


@pytest.mark.parametrize("case", CASES, ids=NAMES)
def test_vector(case: dict[str, Any], served: Place, tmp_path: Path) -> None:
    through_the_agent = run_case(case, tmp_path, program=served.client)
    assert through_the_agent == run_case(case, tmp_path)
    assert (through_the_agent.status == 0) is (case["expect"] == "ok")


@pytest.mark.parametrize("size", [0, 1, 10 * 1024, 1024 * 1024 + 1, 20 * 1024 * 1024])
@pytest.mark.parametrize("release", ["streaming", "verified"])
def test_sizes(size: int, release: str, served: Place) -> None:
    layer = encrypted(os.urandom(size))
    assert run_layer(layer, "--release", release, program=served.client) == (0, layer.plaintext, "")


@pytest.mark.parametrize(
    ("arguments", "status"),
    [
        (["--wrong"], 2),
        (["--release", "never"], 2),
        (["--require-payload"], 3),
    ],
)
def test_command_lines(arguments: list[str], status: int, served: Place) -> None:
    result = run_decoder(None, b"", *arguments, program=served.client)
    assert result == run_decoder(None, b"", *arguments)
    assert result.status == status


@pytest.mark.parametrize("redirections", [">/dev/full", ">&-", "<&-", "2>&-", "3<&-", "<&- >&- 2>&- 3<&-"])
def test_broken_streams(redirections: str, served: Place, tmp_path: Path) -> None:
    layer = encrypted(PLAINTEXT)
    (tmp_path / "payload").write_bytes(payload_bytes(layer.descriptor, {"privkeys": [pem(rsa_key())]}))
    (tmp_path / "layer").write_bytes(layer.ciphertext)

    def run(program: str) -> Result:
        command = f'exec "$0" 3<"$1/payload" <"$1/layer" {redirections}'
        arguments = ["/bin/bash", "-c", command, program, str(tmp_path)]
        done = subprocess.run(arguments, capture_output=True, timeout=120, check=False)
        return Result(done.returncode, done.stdout, done.stderr.decode())

    result = run(served.client)
    assert result == run(PROGRAM)
    assert (result.status == 0) is (redirections == "2>&-")


def test_the_current_directory_and_the_environment_come_along(served: Place, tmp_path: Path) -> None:
    (tmp_path / "keys").mkdir()
    (tmp_path / "keys/key.pem").write_bytes(pem(rsa_key()))
    layer = encrypted(PLAINTEXT)
    (tmp_path / "payload").write_bytes(payload_bytes(layer.descriptor, {}))
    (tmp_path / "layer").write_bytes(layer.ciphertext)
    command = f'cd "$0" && exec {served.client} --decryption-keys-path keys 3<payload <layer'
    done = subprocess.run(["/bin/bash", "-c", command, tmp_path], capture_output=True, timeout=120, check=False)
    assert (done.returncode, done.stdout, done.stderr) == (0, PLAINTEXT, b"")


def test_a_provider_command_gets_the_clients_environment(served: Place, tmp_path: Path) -> None:
    real = turning_command(tmp_path)
    telling = script(tmp_path / "telling", f'#!/bin/sh\nenv >"{tmp_path}/environment"\nexec {real.path}\n')
    config = tmp_path / "conf"
    config.write_text(json.dumps({"key-providers": {"kmscrypt": {"cmd": {"path": telling}}}}))
    environment = {"ODD": "\udcff=x", "TMPDIR": str(tmp_path)}
    assert decrypt(str(config), program=served.client, environment=environment).status == 0
    seen = (tmp_path / "environment").read_bytes().splitlines()
    assert b"ODD=\xff=x" in seen
    assert f"TMPDIR={tmp_path}".encode() in seen
    decrypt(str(config), program=PROGRAM, environment=environment)
    ours = {line for line in (tmp_path / "environment").read_bytes().splitlines() if not line.startswith(b"_=")}
    assert {line for line in seen if not line.startswith(b"_=")} == ours


def test_a_huge_environment_is_not_for_the_agent(place: Place) -> None:
    with Agent(place):
        environment = {f"LARGE{number}": "x" * 100_000 for number in range(2)}
        assert run_layer(encrypted(PLAINTEXT), program=place.client, environment=environment) == (0, PLAINTEXT, "")
        assert place.fallbacks == 1


@pytest.mark.parametrize(
    ("arguments", "environment", "settings"),
    [
        (["config", "--help"], {}, ""),
        (["--help"], {}, ""),
        (["-version"], {}, ""),
        (["--no-agent", "--wrong"], {}, ""),
        (["-wrong", "-no-agent"], {}, ""),
        (["--wrong"], {"CTD_DECODER_AGENT": "off"}, "CTD_DECODER_AGENT=on"),
        (["--wrong"], {}, "# a comment\nCTD_DECODER_AGENT=off\n"),
        (["--wrong"], {}, 'CTD_DECODER_AGENT="off"'),
    ],
)
def test_what_is_not_for_the_agent(
    arguments: list[str], environment: dict[str, str], settings: str, place: Place
) -> None:
    (place.directory / "agent.env").write_text(settings)
    with Agent(place):
        result = run_decoder(None, b"", *arguments, program=place.client, environment=environment)
        assert place.fallbacks == 1
        assert result.status == (2 if any("wrong" in argument for argument in arguments) else 0)


@pytest.mark.parametrize(
    ("environment", "settings"),
    [({}, ""), ({"CTD_DECODER_AGENT": "on"}, "CTD_DECODER_AGENT=off"), ({}, "CTD_DECODER_AGENT=off2\nX=off\n")],
)
def test_what_does_not_switch_it_off(environment: dict[str, str], settings: str, place: Place) -> None:
    (place.directory / "agent.env").write_text(settings)
    with Agent(place):
        assert run_decoder(None, b"", "--wrong", program=place.client, environment=environment).status == 2
        assert place.fallbacks == 0


def test_nothing_of_the_memory_is_dumped(place: Place) -> None:
    with Agent(place) as agent:
        wait_until(lambda: len(agent.children) == limits.AGENT_SPARE_WORKERS)
        wait_until(lambda: _core_files(agent) == {("0", "0", "00000000\n")})  # a worker that just ends shows no filter


def _core_files(agent: Agent) -> set[tuple[str, str, str]]:
    """Return the limits on core files, and what would be in one, of the agent's processes."""
    found = set()
    for process in (agent.process.pid, *agent.children):
        with suppress(FileNotFoundError, ProcessLookupError):  # it has just ended
            soft, hard = Path(f"/proc/{process}/limits").read_text().partition("Max core file size")[2].split()[:2]
            found.add((soft, hard, Path(f"/proc/{process}/coredump_filter").read_text()))
    return found


def test_the_spool_has_the_clients_limits(place: Place) -> None:
    """A limit of the client's on files must count; the agent has none."""
    layer = encrypted(bytes(1024 * 1024))
    client = script(place.directory / "limited", f'#!/bin/sh\nexec prlimit --fsize=4096 {place.client} "$@"\n')
    with Agent(place):
        assert resource.getrlimit(resource.RLIMIT_FSIZE)[0] == resource.RLIM_INFINITY
        result = run_layer(layer, "--release", "verified", program=client)
    assert (result.status, result.plaintext) == (7, b"")
    assert "the spool file: File too large" in result.errors
