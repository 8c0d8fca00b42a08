"""If an upload is interrupted, the layer is encrypted again with a fresh key; a final failure leaves the old image."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path
from typing import TYPE_CHECKING

import pytest

from decoder import limits
from decoder.image.progress import Bars
from tests.support.image.command import blobs, done, image, oci
from tests.support.registry.faults import Asked, Fault, FaultyRegistry
from tests.support.registry.registries import Registry, serving

if TYPE_CHECKING:
    from tests.support.image.images import Layout
    from tests.support.keys.parties import Party

CUT_BYTES = 1000


@pytest.fixture(scope="module")
def registry(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Registry]:
    with serving(tmp_path_factory.mktemp("registry")) as registry:
        yield registry


@pytest.fixture
def recipient(parties: dict[str, Party]) -> list[str]:
    return ["--recipient", parties["jwe"].recipient]


class Uploads:
    """Faults for the uploads of blobs, one after the other, and then none; or the same one for ever."""

    def __init__(self, *faults: Fault, forever: bool = False) -> None:
        self._faults = list(faults)
        self._forever = forever

    def __call__(self, asked: Asked) -> Fault | None:
        if asked.method != "PATCH" or not self._faults:
            return None
        return self._faults[0] if self._forever else self._faults.pop(0)


def test_each_attempt_has_a_key_of_its_own(
    registry: Registry, gzipped: Layout, target: Layout, parties: dict[str, Party], recipient: list[str]
) -> None:
    faults = Uploads(Fault(cut_upload=CUT_BYTES), Fault(503), Fault(429), Fault(cut_upload=CUT_BYTES))
    with FaultyRegistry(registry.host, faults) as proxy:
        place = f"docker://{proxy.host}/anew"
        ended = done("encrypt", oci(gzipped), place, *recipient, "--layer", "1")
        layers = {each["layer"]: each for each in done("layerinfo", place, "--json").value["layers"]}
    plain = gzipped.read(gzipped.layers[1])
    attempts = [each[:CUT_BYTES] for each in proxy.uploads if len(each) in (CUT_BYTES, len(plain))]
    assert len(attempts) == len(set(attempts)) == 5
    assert plain[:CUT_BYTES] not in attempts
    lines = [line for line in ended.errors.splitlines() if "starts again" in line]
    assert len(lines) == 4
    assert all(line.startswith("ctd-decoder: encrypting layer 1 (") for line in lines)
    assert [number in line for number, line in zip(("503", "429"), lines[1:3], strict=True)] == [True] * 2
    assert [bool(layers[number]["encryption"]) for number in range(3)] == [False, True, False]
    done("decrypt", f"docker://{registry.host}/anew", oci(target), *parties["jwe"].ours)
    assert blobs(target) == blobs(gzipped)
    assert registry.uploads == []


def test_it_is_not_tried_for_ever(registry: Registry, gzipped: Layout, recipient: list[str]) -> None:
    place = f"docker://{registry.host}/forever"
    done("encrypt", oci(gzipped), place, *recipient, "--layer", "0")
    before = done("layerinfo", place).output
    with FaultyRegistry(registry.host, Uploads(Fault(cut_upload=CUT_BYTES), forever=True)) as proxy:
        ended = image("encrypt", oci(gzipped), f"docker://{proxy.host}/forever", *recipient, "--layer", "0")
        assert (ended.status, ended.output) == (7, "")
        assert f"error: {proxy.host} " in ended.errors
        assert proxy.count("PATCH", "") == limits.REGISTRY_ATTEMPTS
    assert done("layerinfo", place).output == before


def test_decrypted_and_copied_layers_begin_anew_too(
    registry: Registry, gzipped: Layout, target: Layout, parties: dict[str, Party], recipient: list[str], tmp_path: Path
) -> None:
    done("encrypt", oci(gzipped), oci(target), *recipient, "--layer", "1")
    with FaultyRegistry(registry.host, Uploads(*[Fault(cut_upload=CUT_BYTES)] * 4)) as proxy:
        ended = done("decrypt", oci(target), f"docker://{proxy.host}/both", *parties["jwe"].ours)
    begun = {line.split()[1] for line in ended.errors.splitlines() if "starts again" in line}
    assert "decrypting" in begun
    back = type(target)(tmp_path / "back")
    done("encrypt", f"docker://{registry.host}/both", oci(back), *recipient, "--layer", "0")
    assert back.layers[1:] == gzipped.layers[1:]


FAILURES = {
    "it needs a login": Fault(401),
    "too many requests (HTTP 429": Fault(429),
    "HTTP 500": Fault(500),
    "ended the connection": Fault(cut=0),
}


@pytest.mark.parametrize("reason", FAILURES)
@pytest.mark.parametrize("side", ["source", "target"])
def test_a_registry_that_does_not_answer(
    reason: str, side: str, registry: Registry, gzipped: Layout, target: Layout, recipient: list[str]
) -> None:
    """At the start of reading, and after all the layers were written."""
    place = f"docker://{registry.host}/answers"
    done("encrypt", oci(gzipped), place, *recipient)
    before = done("layerinfo", place).output

    method = "GET" if side == "source" else "PUT"

    def rule(asked: Asked) -> Fault | None:
        return FAILURES[reason] if "manifests" in asked.path and asked.method == method else None

    with FaultyRegistry(registry.host, rule) as proxy:
        faulty = f"docker://{proxy.host}/answers"
        places = [faulty, oci(target)] if side == "source" else [oci(gzipped), faulty]
        ended = image("encrypt", *places, *recipient)
    assert ended.status == 7, ended.errors
    assert reason in ended.errors
    assert 1 <= proxy.count(method, "manifests") <= limits.REGISTRY_ATTEMPTS
    assert not (target.directory / "index.json").exists()
    assert done("layerinfo", place).output == before


def damaged_blobs(asked: Asked) -> Fault:
    return Fault(damage=asked.method == "GET" and "/blobs/" in asked.path)


@pytest.mark.parametrize("verb", ["encrypt", "decrypt"])
def test_what_reads_back_damaged_is_not_published(
    verb: str, registry: Registry, gzipped: Layout, target: Layout, parties: dict[str, Party], recipient: list[str]
) -> None:
    done("encrypt", oci(gzipped), oci(target), *recipient)
    source, options = (gzipped, recipient) if verb == "encrypt" else (target, parties["jwe"].ours)
    with FaultyRegistry(registry.host, damaged_blobs) as proxy:
        place = f"docker://{proxy.host}/back-{verb}"
        ended = image(verb, oci(source), place, *options)
        assert (ended.status, ended.output) == (5, ""), ended.errors
        assert image("layerinfo", place).status == 7
        done(verb, oci(source), place, *options, "--no-verify")
    assert len(done("layerinfo", f"docker://{registry.host}/back-{verb}", "--json").value["layers"]) == 3


def test_a_damaged_blob_of_a_registry(
    registry: Registry, gzipped: Layout, target: Layout, recipient: list[str]
) -> None:
    done("encrypt", oci(gzipped), f"docker://{registry.host}/damaged", *recipient, "--layer", "0")
    with FaultyRegistry(registry.host, damaged_blobs) as proxy:
        ended = image("encrypt", f"docker://{proxy.host}/damaged", oci(target), *recipient)
    assert (ended.status, "is damaged: its digest differs" in ended.errors) == (5, True)
    assert not (target.directory / "index.json").exists()


def test_a_bar_begins_anew(capsys: pytest.CaptureFixture[str]) -> None:
    with Bars() as bars:
        task = bars.task("encrypting layer 0", 100)
        task.advance(70)
        task.restart("the reason")
        assert bars._bars.tasks[0].completed == 0
        task.advance(10)
        assert bars._bars.tasks[0].completed == 10
    assert "encrypting layer 0 starts again: the reason" in capsys.readouterr().err
