"""Parsed keys of key files: parsed once for many layers, found again by what they are made of alone, and dropped."""

from __future__ import annotations

import os
import subprocess
import time
from collections.abc import Callable
from contextlib import closing
from pathlib import Path
from typing import cast

import msgpack  # type: ignore[import-untyped]
import pytest
from cryptography.hazmat.primitives.asymmetric import ec

from decoder import limits
from decoder.agent.notices import Notices
from decoder.agent.processes.parsedkeys import ParsedKeys
from tests.support.keys.pgp_home import GnupgHome
from tests.support.keywrap.layers import Layer, ec_key, encrypted, pem, private_options, rsa_key
from tests.support.program.agent import Agent, Place, wait_until
from tests.support.program.onelayer import run_layer
from tests.support.program.processes import PROGRAM, Result

PASSPHRASE = "correct"
ITERATIONS = 2_000_000  # of PBKDF2
S2K_BYTES = 65_011_712  # the most that OpenPGP can ask for
LAYERS = 6


def costly_pem(directory: Path) -> Layer:
    """Write a key whose passphrase takes long to check, and encrypt a layer to it."""
    command = ["openssl", "pkcs8", "-topk8", "-v2", "aes-256-cbc", "-iter", str(ITERATIONS), "-passout"]
    done = subprocess.run([*command, f"pass:{PASSPHRASE}"], input=pem(rsa_key()), capture_output=True, check=True)
    (directory / "key.pem").write_bytes(done.stdout)
    return encrypted(b"a small layer")


def costly_pgp(directory: Path) -> Layer:
    with closing(GnupgHome()) as home:
        (home.path / "gpg-agent.conf").write_text(f"s2k-count {S2K_BYTES}\n")
        home.make_key("layers", "rsa", PASSPHRASE)
        (directory / "key.pem").write_bytes(home.secret("layers", passphrase=PASSPHRASE))
        return encrypted(b"a small layer", {"pgp": [home.encrypt(private_options(), "layers")]})


@pytest.fixture
def keys(tmp_path: Path) -> Path:
    directory = tmp_path / "keys"
    directory.mkdir()
    set_password(directory, PASSPHRASE)
    return directory


def set_password(keys: Path, password: str) -> None:
    file = keys / "key.pem.pass"
    file.touch(0o600)
    file.write_text(password)


def decrypt(layer: Layer, keys: Path, program: str) -> Result:
    return run_layer(layer, "--decryption-keys-path", str(keys), parameters={}, program=program)


def shift(agent: Agent) -> set[int]:
    """Return the workers that wait, once all of them do."""
    workers: set[int] = set()

    def are_complete() -> bool:
        workers.clear()
        workers.update(agent.children)
        return len(workers) == limits.AGENT_SPARE_WORKERS

    wait_until(are_complete)
    return workers


def wait_for_others(agent: Agent, workers: set[int]) -> None:
    wait_until(lambda: not workers & shift(agent))


def cpu_seconds(agent: Agent) -> float:
    """Return what the agent's processes have used, those that have ended."""
    fields = Path(f"/proc/{agent.process.pid}/stat").read_text().rpartition(")")[2].split()
    return sum(map(int, fields[11:15])) / os.sysconf("SC_CLK_TCK")


@pytest.mark.parametrize("make", [costly_pem, costly_pgp])
def test_a_costly_key_is_parsed_once(make: Callable[[Path], Layer], keys: Path, place: Place) -> None:
    layer = make(keys)
    with Agent(place) as agent:
        workers = shift(agent)
        before = cpu_seconds(agent)
        assert decrypt(layer, keys, place.client) == (0, layer.plaintext, "")
        wait_for_others(agent, workers)  # they have the key
        once = cpu_seconds(agent) - before
        for _ in range(LAYERS):
            assert decrypt(layer, keys, place.client) == (0, layer.plaintext, "")
        assert cpu_seconds(agent) - before < once + LAYERS / 2 * once  # parsed each time, it would be LAYERS more
        assert place.fallbacks == 0


def test_what_is_read_for_the_layer_counts(keys: Path, place: Place) -> None:
    """A key that was parsed before opens nothing once its file or its password has changed."""
    layer = costly_pem(keys)
    with Agent(place) as agent:
        workers = shift(agent)
        assert decrypt(layer, keys, place.client).status == 0
        wait_for_others(agent, workers)
        set_password(keys, "wrong")
        result = decrypt(layer, keys, place.client)
        assert result == decrypt(layer, keys, PROGRAM)
        assert "the password does not open it" in result.errors
        (keys / "key.pem").write_bytes(pem(ec_key()))
        result = decrypt(layer, keys, place.client)
        assert result == decrypt(layer, keys, PROGRAM)
        assert result.status == 4
        (keys / "key.pem").write_bytes(pem(rsa_key()))
        assert decrypt(layer, keys, place.client) == (0, layer.plaintext, "")
        assert place.fallbacks == 0


def test_workers_leave_when_a_file_has_changed(keys: Path, place: Place) -> None:
    """They have inherited what was parsed of it; so does nobody who comes after them."""
    layer = costly_pem(keys)
    with Agent(place) as agent:
        for change in (lambda: decrypt(layer, keys, place.client), (keys / "key.pem").unlink):
            workers = shift(agent)
            change()
            wait_for_others(agent, workers)


def test_keys_of_payloads_are_not_kept(place: Place) -> None:
    """So the workers that wait stay: those after them would have nothing new. They may leave for other reasons."""

    def one_stays(agent: Agent) -> bool:
        keys = [pem(ec.generate_private_key(ec.SECP256R1())), pem(rsa_key())]
        parameters = {"privkeys": keys, "privkeys-passwords": [b"", b""]}
        workers = shift(agent)
        assert run_layer(encrypted(b"x"), parameters=parameters, program=place.client).status == 0
        time.sleep(10 * limits.AGENT_REFILL_SECONDS)
        return bool(workers & shift(agent))

    with Agent(place) as agent:
        assert any(one_stays(agent) for _ in range(20))


def notice(file: Path, number: int) -> bytes:
    return cast("bytes", msgpack.packb([b"%d" % number, str(file), [b"a number"]]))


def test_there_are_not_too_many_and_changed_ones_are_dropped(tmp_path: Path) -> None:
    """What is known already, or does not find room, is no news: nobody is sent away for it."""
    parsed, files = ParsedKeys(), [tmp_path / str(number) for number in range(limits.AGENT_PARSED_KEYS)]
    for number, file in enumerate(files):
        file.write_text("a key")
        assert parsed.add(notice(file, number))
        assert not parsed.add(notice(file, number))
    assert not parsed.add(notice(files[0], len(files)))
    assert len(parsed) == len(files)
    assert not parsed.drop_changed()
    files[0].unlink()
    files[1].write_text("another")
    os.utime(files[2], ns=(1, 1))
    assert parsed.drop_changed()
    assert len(parsed) == len(files) - 3
    parsed.clear()
    assert not parsed.drop_changed()


def test_a_key_that_cannot_be_parsed_again_is_not_kept(tmp_path: Path) -> None:
    parsed = ParsedKeys()
    assert not parsed.add(cast("bytes", msgpack.packb([b"1", str(tmp_path), b"no key"])))
    assert len(parsed) == 0


def test_a_notice_that_is_too_long_is_not_sent() -> None:
    notices = Notices()
    notices.parsed(bytes(limits.AGENT_NOTICE_BYTES))
    assert notices.read() is None
    notices.parsed(bytes(limits.AGENT_NOTICE_BYTES - 1))
    assert notices.read() == ("parsed", bytes(limits.AGENT_NOTICE_BYTES - 1), [])
    for end in (notices._reading, notices._writing):
        end.close()
