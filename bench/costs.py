"""What else a decoder costs: instructions, memory, and files beside the key."""

import json
import os
import re
import signal
import subprocess
import time
from collections.abc import Iterable, Iterator
from contextlib import suppress
from pathlib import Path
from tempfile import NamedTemporaryFile, TemporaryDirectory

from bench.layers import SMALL_BYTES, make_layer, new_key, rsa_key
from bench.process import ciphertext
from bench.programs import MIB, PACKAGE, PACKAGE_TREE, PIP, REFERENCE, SECONDS, Bench, Layer, children, run, stop_agent
from bench.report.figures import Figure

_NO_AGENT = {"CTD_DECODER_AGENT": "off"}
_DECODERS = 64
_RESTING_SECONDS = 12.0  # an agent that has had nothing to do for that time has given back what memory it can


def instructions(bench: Bench) -> Iterator[Figure]:
    """Count the instructions of a small layer without an agent, which do not depend on other load.

    valgrind's processor has no instructions for SHA-256, so the figure of a large layer would mean nothing.
    """
    launcher = PACKAGE_TREE / "lib/ctd-decoder/bin/ctd-decoder"  # what decrypts if there is no agent
    programs = {REFERENCE: bench.programs[REFERENCE], PACKAGE: launcher, PIP: bench.programs[PIP]}
    layer = make_layer()._replace(environment=_NO_AGENT)
    options = ["--tool=cachegrind", "--cache-sim=no", "--cachegrind-out-file=/dev/null", "--trace-children=yes"]
    runs = {}
    for name, program in programs.items():
        said = run(Path("/usr/bin/valgrind"), layer, *options, str(program)).said
        runs[name] = [float(sum(int(count.replace(",", "")) for count in re.findall(r"I +refs: +([\d,]+)", said)))]
    yield Figure(f"instructions of a {SMALL_BYTES}-byte layer, without an agent", "instructions", runs)


def memory(bench: Bench) -> Iterator[Figure]:
    """Measure an idle agent, and decoders that wait for the second half of their layers.

    Memory is the proportional set size (Pss), which counts once what processes share.
    """
    stop_agent()
    run(bench.programs[PACKAGE], make_layer())
    time.sleep(_RESTING_SECONDS)
    yield Figure("memory of an idle agent", "memory", {PACKAGE: [pss(_agents(bench.programs[PACKAGE]))]})
    each = {name: [_of_many(bench.programs[name])] for name in (REFERENCE, PACKAGE)}
    stop_agent()
    yield Figure(f"memory of {_DECODERS} decoders at once, per process, agent counted in", "memory", each)


def _of_many(program: Path) -> float:
    """Start decoders, give each half of its layer, and return the memory of one in bytes."""
    size, feeds, decoders = 4 * MIB, [], []
    with NamedTemporaryFile() as payload:
        payload.write(make_layer(size).payload)
        payload.flush()
        for _ in range(_DECODERS):
            stdin, feed = os.pipe()
            command: list[str | Path] = ["sh", "-c", 'exec "$0" 3< "$1" > /dev/null 2>&1', program, payload.name]
            decoders.append(subprocess.Popen(command, stdin=stdin))
            feeds.append(feed)
            os.close(stdin)
        signal.alarm(int(SECONDS))  # ends the bench if a decoder does not read its layer
        for feed in feeds:
            os.write(feed, b"".join(ciphertext(size // 2)))
        signal.alarm(0)
        time.sleep(1)  # then they have taken what is in the pipes
        taken = pss([*(decoder.pid for decoder in decoders), *_agents(program)])
    for decoder, feed in zip(decoders, feeds, strict=True):
        os.close(feed)
        decoder.wait(SECONDS)
    return taken / _DECODERS


def _agents(program: Path) -> list[int]:
    """List the processes of the agents; the reference has none."""
    asked = subprocess.run([program, "agent", "status", "--json"], capture_output=True, check=False)
    agents = [int(each["pid"]) for each in json.loads(asked.stdout or b"[]")]
    return agents + [child for agent in agents for child in children(agent)]


def pss(pids: Iterable[int]) -> float:
    """Return the memory that processes take, in bytes: what they share counts once (proc(5), Pss)."""
    total = 0
    for pid in pids:
        with suppress(OSError):  # it has ended
            text = Path(f"/proc/{pid}/smaps_rollup").read_text()
            total += int(text.partition("\nPss:")[2].split()[0]) * 1024
    return float(total)


def keys(bench: Bench) -> Iterator[Figure]:
    """Measure what other files and other keys cost in the directory of the key that opens the layer."""
    layer = make_layer(has_key=False)
    others = {
        "a file that is not a key": ("a{}.txt", [b"not a key\n" * 100] * 200),
        "another RSA-2048 key": ("a{}.pem", [new_key() for _ in range(20)]),
    }
    for what, (name, contents) in others.items():
        with TemporaryDirectory() as alone, TemporaryDirectory() as among:
            for number, content in enumerate(contents):
                Path(among, name.format(number)).write_bytes(content)
            for directory in (alone, among):
                Path(directory, "z.pem").write_bytes(rsa_key())
            ways = [(layer, ["--decryption-keys-path", directory]) for directory in (alone, among)]
            runs = [seconds / len(contents) for seconds in extra(bench, *ways)]
        yield Figure(f"{what}, in the keys directory", "time", {PIP: runs})


def extra(bench: Bench, *ways: tuple[Layer, list[str]]) -> list[float]:
    """Return how many seconds more the second of two ways takes without an agent, each a layer and options."""
    ways = tuple((layer._replace(environment=_NO_AGENT), options) for layer, options in ways)
    for layer, options in ways:
        run(bench.programs[PIP], layer, *options, check_bytes=True)
    taken = ([run(bench.programs[PIP], layer, *options).wall for layer, options in ways] for _ in range(bench.rounds))
    return [second - first for first, second in taken]
