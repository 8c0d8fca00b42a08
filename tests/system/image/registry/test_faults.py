"""A registry that is busy, loses connections, or redirects."""

from __future__ import annotations

import os
import time
from typing import TYPE_CHECKING

import pytest

from decoder import limits
from decoder.errors import DigestError, ImageError, UsageError
from decoder.image import transport
from decoder.image.errors import InterruptedWriteError
from decoder.image.progress import Quiet
from decoder.image.retries import again
from decoder.image.transport import Descriptor, Options
from decoder.registry import client as registryclient
from decoder.registry.reference import parse_reference
from tests.support.image import images
from tests.support.registry import registries
from tests.support.registry.faults import Asked, Fault, FaultyRegistry
from tests.support.registry.registries import USER, Registry, pull, push
from tests.support.registry.registry_parts import blobs_of, log_in

if TYPE_CHECKING:
    from pathlib import Path

    from tests.support.image.images import Layout


@pytest.mark.parametrize("status", [429, 500, 503])
def test_busy_for_a_while(status: int, registry: Registry, layout: Layout) -> None:
    def rule(asked: Asked) -> Fault | None:
        is_new = [each[:2] for each in proxy.asked].count(asked[:2]) <= 2
        return Fault(status, {"Retry-After": "0"}) if is_new and asked.method != "PATCH" else None

    with FaultyRegistry(registry.host, rule) as proxy:
        push(layout, f"docker://{proxy.host}/busy{status}")
        assert pull(f"docker://{proxy.host}/busy{status}") == blobs_of(layout)


@pytest.mark.parametrize("fault", [Fault(429), Fault(500), Fault(cut=0)])
def test_busy_for_good(fault: Fault, registry: Registry) -> None:
    with FaultyRegistry(registry.host, lambda asked: fault if "manifests" in asked.path else None) as proxy:
        reason = f"/known: .*HTTP {fault.status}" if fault.status else " ended the connection"
        with pytest.raises(ImageError, match=f"{proxy.host}{reason}"):
            pull(f"docker://{proxy.host}/known:tag")
        assert proxy.count("GET", "manifests") == limits.REGISTRY_ATTEMPTS


def test_denied(registry: Registry) -> None:
    with FaultyRegistry(registry.host, lambda asked: Fault(403) if "manifests" in asked.path else None) as proxy:
        with pytest.raises(ImageError, match=f"{proxy.host}/known: access is denied .HTTP 403."):
            pull(f"docker://{proxy.host}/known:tag")
        assert proxy.count("GET", "manifests") == 1


def test_a_download_is_resumed(registry: Registry, layout: Layout) -> None:
    def rule(asked: Asked) -> Fault | None:
        return Fault(cut=70_000) if "blobs" in asked.path and "range" not in asked.headers else None

    with FaultyRegistry(registry.host, rule) as proxy:
        assert pull(f"docker://{proxy.host}/known:tag") == blobs_of(layout)
        ranges = {asked.headers["range"] for asked in proxy.asked if "range" in asked.headers}
        assert ranges == {"bytes=70000-"}


def test_a_download_is_given_up(registry: Registry) -> None:
    with FaultyRegistry(registry.host, lambda asked: Fault(cut=1000) if "blobs" in asked.path else None) as proxy:
        with pytest.raises(ImageError, match=f"{proxy.host} ended the connection"):
            pull(f"docker://{proxy.host}/known:tag")
        assert proxy.count("GET", "blobs") <= 2 * limits.REGISTRY_ATTEMPTS


def test_a_damaged_manifest(registry: Registry) -> None:
    with (
        FaultyRegistry(registry.host, lambda asked: Fault(damage="manifests" in asked.path)) as proxy,
        pytest.raises(DigestError, match="known:tag: the manifest is damaged"),
    ):
        pull(f"docker://{proxy.host}/known:tag")


@pytest.mark.parametrize("fault", [Fault(cut_upload=200_000), Fault(cut=0), Fault(503)])
def test_an_interrupted_upload_may_be_made_again(fault: Fault, registry: Registry) -> None:
    blob = os.urandom(3_000_000)
    descriptor: Descriptor = {"mediaType": "", "digest": images.digest_of(blob), "size": len(blob)}
    faults = [fault, fault]
    with (
        FaultyRegistry(
            registry.host, lambda asked: faults.pop() if asked.method == "PATCH" and faults else None
        ) as proxy,
        transport.open_target(f"docker://{proxy.host}/interrupted", Options()) as target,
    ):
        with pytest.raises(InterruptedWriteError):
            registries.write(target, blob, descriptor["digest"])
        assert not target.has(descriptor)
        again(lambda: registries.write(target, blob, descriptor["digest"]), Quiet().task("upload", len(blob)))
        assert registries.read(target, descriptor) == blob
    assert not faults


def test_an_upload_is_given_up(registry: Registry) -> None:
    blob = os.urandom(300_000)
    with FaultyRegistry(registry.host, lambda asked: Fault(cut_upload=100 if asked.method == "PATCH" else -1)) as proxy:
        with (
            transport.open_target(f"docker://{proxy.host}/interrupted", Options()) as target,
            pytest.raises(InterruptedWriteError),
        ):
            again(lambda: registries.write(target, blob, images.digest_of(blob)), Quiet().task("upload", len(blob)))
        assert proxy.count("PATCH", "") == limits.REGISTRY_ATTEMPTS


def test_a_lost_reply_to_the_end_of_an_upload(registry: Registry) -> None:
    blob = os.urandom(100_000)
    faults = [Fault(cut=0)]
    with FaultyRegistry(
        registry.host, lambda asked: faults.pop() if asked.method == "PUT" and faults else None
    ) as proxy:
        with transport.open_target(f"docker://{proxy.host}/lost", Options()) as target:
            registries.write(target, blob, images.digest_of(blob))
        assert proxy.count("PUT", "") == 2


def test_a_refusal_in_the_middle_of_an_upload(registry: Registry) -> None:
    with (
        FaultyRegistry(registry.host, lambda asked: Fault(413) if asked.method == "PATCH" else None) as proxy,
        transport.open_target(f"docker://{proxy.host}/large", Options()) as target,
        pytest.raises(ImageError, match=r"it did not accept the whole blob .HTTP 413") as caught,
    ):
        registries.write(target, bytes(300_000), images.digest_of(bytes(300_000)))
    assert not isinstance(caught.value, InterruptedWriteError)


def test_redirects(locked: Registry, layout: Layout, registry: Registry, home: Path) -> None:
    """Blobs that another host has are got from there, without what is for the registry."""
    with FaultyRegistry(registry.host, lambda _: None) as store:

        def rule(asked: Asked) -> Fault | None:
            if asked.headers.get("authorization") != "Basic c29tZW9uZTph":
                return Fault(401, {"WWW-Authenticate": "Basic"})
            return Fault(307, {"Location": f"http://{store.host}{asked.path}"}) if "blobs" in asked.path else None

        with FaultyRegistry(registry.host, rule) as proxy:
            log_in(home, proxy.host, auths={proxy.host: {"username": USER, "password": "a"}})
            assert pull(f"docker://{proxy.host}/known:tag") == blobs_of(layout)
        assert len(store.asked) == 4
        assert not any("authorization" in asked.headers for asked in store.asked)


@pytest.mark.parametrize(
    ("location", "message"),
    [
        ("http://registry.example/blob", "refers to registry.example:80 without TLS"),
        ("ftp://localhost/blob", "is not an HTTP URL"),
        ("", "gives no usable Location .HTTP 307."),
        ("?again", "redirects more than 5 times"),
    ],
)
def test_redirects_that_are_not_followed(location: str, message: str, registry: Registry) -> None:
    with FaultyRegistry(
        registry.host, lambda asked: Fault(307, {"Location": location}) if "blobs" in asked.path else None
    ) as proxy:
        with pytest.raises(ImageError, match=message):
            pull(f"docker://{proxy.host}/known:tag")
        assert proxy.count("GET", "blobs") <= 1 + limits.REGISTRY_REDIRECTS


def test_a_challenge_of_another_host_is_not_answered(registry: Registry, home: Path) -> None:
    with FaultyRegistry(registry.host, lambda _: Fault(401, {"WWW-Authenticate": "Basic"})) as store:
        with FaultyRegistry(
            registry.host,
            lambda asked: Fault(307, {"Location": f"http://{store.host}/"}) if "blobs" in asked.path else None,
        ) as proxy:
            log_in(home, "", auths={host: {"username": USER, "password": "a"} for host in (proxy.host, store.host)})
            with pytest.raises(ImageError, match="HTTP 401"):
                pull(f"docker://{proxy.host}/known:tag")
        assert [asked.headers.get("authorization") for asked in store.asked] == [None]


def test_time_limits(registry: Registry, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(limits, "REGISTRY_ATTEMPTS", 1)
    began = time.monotonic()
    with (
        FaultyRegistry(registry.host, lambda asked: Fault(drip=0.05) if "manifests" in asked.path else None) as proxy,
        transport.open_source(f"docker://{proxy.host}/known:tag", Options()) as source,
    ):
        monkeypatch.setattr(registryclient.RegistryClient.send, "__defaults__", (None, None, 0.5))
        with pytest.raises(ImageError, match=f"{proxy.host} did not answer in time"):
            source.root()
    assert time.monotonic() - began < 30


def test_a_body_that_trickles_in(registry: Registry, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(limits, "REGISTRY_IDLE_SECONDS", 0.2)
    with (
        FaultyRegistry(registry.host, lambda asked: Fault(drip=0.05) if "manifests" in asked.path else None) as proxy,
        pytest.raises(ImageError, match=f"{proxy.host} sends less than {limits.REGISTRY_LEAST_RATE} bytes per second"),
    ):
        pull(f"docker://{proxy.host}/known:tag")


@pytest.mark.parametrize(
    ("place", "expected"),
    [
        ("//localhost/a", "localhost/a:latest"),
        ("//localhost:5000/a/b:1.0_x", "localhost:5000/a/b:1.0_x"),
        ("//[::1]:5000/a", "[::1]:5000/a:latest"),
        ("//image:tag", "docker.io/library/image:tag"),
        ("//someone/image", "docker.io/someone/image:latest"),
        (f"//host.example/a@sha256:{'0' * 64}", f"host.example/a@sha256:{'0' * 64}"),
    ],
)
def test_references(place: str, expected: str) -> None:
    assert str(parse_reference(place)) == expected


@pytest.mark.parametrize(
    "place",
    [
        "localhost/a",
        "//localhost/",
        "//localhost/A",
        "//localhost/a:",
        "//localhost/a:-",
        "//localhost/../a",
        "//user@localhost/a",
        f"//localhost/a:tag@sha256:{'0' * 64}",
        "//localhost/a@sha256:0",
        f"//localhost/{'a' * 600}",
        "//localhost/a\n",
        "//localhost:port/a",
    ],
)
def test_malformed_references(place: str) -> None:
    with pytest.raises(UsageError, match="docker:"):
        parse_reference(place)
    with pytest.raises(UsageError), transport.open_source(f"docker:{place}", Options()):
        pass
