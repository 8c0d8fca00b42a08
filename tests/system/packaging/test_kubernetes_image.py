"""The image of the DaemonSet and of the server, run by containerd as the manifests say."""

from __future__ import annotations

import json
import os
import re
import shutil
import subprocess
import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import grpc
import pytest

from decoder import __version__
from tests.support.image import images
from tests.support.keywrap.layers import pem, private_options, public_pem, rsa_key
from tests.support.kubernetes.manifests import pod_of, render, run
from tests.support.kubernetes.mounted_secrets import TLS_FILES, Volume, certificates
from tests.support.kubernetes.watch_server import WatchServer, event
from tests.support.node import roots
from tests.support.node.containerd import IMAGE, Containerd
from tests.support.program.processes import PROGRAM, ROOT
from tests.support.provider.serving import ask, message, method_of, request_of, result_of, wait_for

_SECONDS = 120
# containerd's, that a manifest's `drop: [ALL]` takes away.
_CAPABILITIES = (
    *("CHOWN", "DAC_OVERRIDE", "FSETID", "FOWNER", "MKNOD", "NET_RAW", "SETGID", "SETUID", "SETFCAP", "SETPCAP"),
    *("NET_BIND_SERVICE", "SYS_CHROOT", "KILL", "AUDIT_WRITE"),
)
_OPT = "/run/private/opt"  # of the containerd of the tests


@pytest.fixture(scope="module")
def image(image_archive: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The image for this machine, as an OCI layout."""
    layout = tmp_path_factory.mktemp("image") / "layout"
    run("skopeo", "copy", "--quiet", f"oci-archive:{image_archive}:{__version__}", f"oci:{layout}:{__version__}")
    return layout


class Kubelet:
    """Starts a pod's containers with ctr, as far as ctr can.

    Args:
        node: its containerd, which gets the image.
        image: an OCI layout; each container has a tag of its own, for ctr takes its user from there.
        directory: for what containers write.
    """

    def __init__(self, node: Containerd, image: Path, directory: Path) -> None:
        self._node = node
        layout = images.Layout(image)
        self._entrypoint = layout.read_json(layout.manifest["config"])["config"]["Entrypoint"]
        (descriptor,) = json.loads((image / "index.json").read_bytes())["manifests"]
        self._tag = descriptor["annotations"]["org.opencontainers.image.ref.name"]
        self._image = shutil.copytree(image, directory / "image")
        self._directory = directory

    def start(
        self, pod: dict[str, Any], container: dict[str, Any], volumes: dict[str, str], *options: str
    ) -> subprocess.CompletedProcess[str]:
        """Start a container; its volumes are at these places of the node."""
        self._import(container, {**pod["securityContext"], **container["securityContext"]})
        mounts = [
            f"type=bind,src={volumes[mount['name']]},dst={mount['mountPath']},"
            f"options=rbind:{'ro' if mount.get('readOnly') else 'rw'}"
            for mount in container.get("volumeMounts", [])
        ]
        flags = [flag for mount in mounts for flag in ("--mount", mount)]
        flags += [flag for name in _CAPABILITIES for flag in ("--cap-drop", f"CAP_{name}")]
        name = container["name"]
        return self._node.ctr(
            *("run", "--read-only", "--seccomp", "--cgroup", f"/ctd-decoder-test-{os.getpid()}"),
            *flags, *options, f"{name}:{name}", name, *container.get("command", self._entrypoint), *container["args"],
        )  # fmt: skip

    def _import(self, container: dict[str, Any], security: dict[str, Any]) -> None:
        name = container["name"]
        user = f"{security['runAsUser']}:{security['runAsGroup']}"
        changes = ("--tag", name, "--config.user", user)
        run("umoci", "config", "--image", f"{self._image}:{self._tag}", *changes)
        archive = self._directory / f"{name}.tar"
        run("tar", "--create", "--file", archive, "--directory", self._image, ".")
        imported = self._node.ctr("images", "import", "--base-name", name, str(archive))
        assert imported.returncode == 0, imported.stderr


@pytest.mark.parametrize("suite", roots.SUITES, ids=lambda suite: suite.name)
def test_a_node_runs_encrypted_images_once_it_was_installed(suite: roots.Suite, image: Path, tmp_path: Path) -> None:
    """containerd finds the program by itself, before what its PATH has, and needs no start."""
    encrypted = encrypted_image(tmp_path)
    keys, configuration = Volume(tmp_path / "keys"), Volume(tmp_path / "files")
    keys.write({"node.pem": pem(rsa_key())})
    configuration.write({})
    account = tmp_path / "account"
    account.mkdir()
    volumes = {
        "containerd": _OPT,
        "node-keys": str(keys.directory),
        "node-files": str(configuration.directory),
        "ocicrypt": "/etc/containerd/ocicrypt",
        "drop-in": "/etc/containerd/conf.d",
        "account": str(account),
    }
    containers = tmp_path / "containers"
    containers.mkdir()
    pod = pod_of(render(tmp_path / "install", "node", ("node-files", "node-drop-in")))
    removing = pod_of(render(tmp_path / "remove", "node", ("node-files", "node-drop-in", "node-removal")))
    (tmp_path / "node").mkdir()
    with Containerd(tmp_path / "node", ctd_decoder="#!/bin/sh\nexit 99\n", programs=suite.programs) as node:
        kubelet = Kubelet(node, image, containers)
        assert node.execute("mkdir", volumes["drop-in"]).returncode == 0  # hostPath: DirectoryOrCreate
        ended = kubelet.start(pod, pod["initContainers"][0], volumes, "--rm")
        assert ended.returncode == 0, ended.stderr
        drop_in = node.execute("cat", f"{volumes['drop-in']}/ctd-decoder.toml").stdout
        assert drop_in == (ROOT / "config/conf.d/ctd-decoder.toml").read_text()
        imported = node.import_image(encrypted)
        assert imported.returncode == 0, imported.stderr
        assert node.run_stock().stdout == images.expected_output()
        with WatchServer(account) as server:
            follow_the_secret(node, kubelet, pod, volumes, keys, server)
        ended = kubelet.start(removing, removing["initContainers"][0], volumes, "--rm")
        assert ended.returncode == 0, ended.stderr
        assert node.execute("find", _OPT, "/etc/containerd", "-type", "f").stdout == ""
        node.ctr("images", "remove", "--sync", IMAGE)
        assert node.import_image(encrypted).returncode or node.run_stock().returncode


def follow_the_secret(
    node: Containerd,
    kubelet: Kubelet,
    pod: dict[str, Any],
    volumes: dict[str, str],
    keys: Volume,
    server: WatchServer,
) -> None:
    """The pod's container replaces the node's key when the Secret's is, and ends when it is told to.

    The API server says so first; what the kubelet mounts counts once the API server does not answer any more.
    """
    (container,) = pod["containers"]
    reach = [word for name, value in server.environment.items() for word in ("--env", f"{name}={value}")]
    started = kubelet.start(pod, container, volumes, "--detach", "--net-host", *reach)
    assert started.returncode == 0, started.stderr
    place = "/etc/containerd/ocicrypt/keys"
    wait_for(lambda: bool(server.watches))
    server.events.put(event("MODIFIED", next_pem="next"))
    wait_for(lambda: node.execute("ls", place).stdout == "next.pem\n")
    assert node.execute("cat", f"{place}/next.pem").stdout == "next"
    server.status = 503
    server.hang_up()
    wait_for(lambda: len(server.watches) > 2)
    keys.write({"mounted.pem": b"mounted"})
    wait_for(lambda: node.execute("ls", place).stdout == "mounted.pem\n")
    wait_for(lambda: node.ctr("tasks", "kill", "--signal", "SIGTERM", container["name"]).returncode)
    assert "STOPPED" in node.ctr("tasks", "list").stdout


def test_the_container_that_waits_ends_when_it_is_told_to(image: Path, tmp_path: Path) -> None:
    pod = pod_of(render(tmp_path / "rendered", "node"))
    (container,) = pod["containers"]
    (tmp_path / "node").mkdir()
    (tmp_path / "containers").mkdir()
    with Containerd(tmp_path / "node") as node:
        started = Kubelet(node, image, tmp_path / "containers").start(pod, container, {}, "--detach")
        assert started.returncode == 0, started.stderr
        assert "RUNNING" in node.ctr("tasks", "list").stdout
        wait_for(lambda: node.ctr("tasks", "kill", "--signal", "SIGTERM", container["name"]).returncode)
        assert "STOPPED" in node.ctr("tasks", "list").stdout


def encrypted_image(directory: Path) -> images.Layout:
    layout = images.write_image(directory / "plain", images.GZIP)
    (directory / "public.pem").write_bytes(public_pem(rsa_key()))
    places = [f"oci:{place}:{images.NAME}" for place in (layout.directory, directory / "encrypted")]
    run(PROGRAM, "image", "encrypt", *places, "--recipient", f"jwe:{directory / 'public.pem'}")
    return images.Layout(directory / "encrypted")


def test_the_server_serves_who_has_a_certificate(image: Path, tmp_path: Path) -> None:
    pod = pod_of(render(tmp_path / "rendered", "keyprovider"))
    (container,) = pod["containers"]
    assert {f"--{option}=/secrets/tls/{name}" for option, name in TLS_FILES.items()} < set(container["args"])
    container["args"] = [re.sub("=:(50051|9464)$", "=127.0.0.1:0", text) for text in container["args"]]
    assert {"--listen=127.0.0.1:0", "--metrics=127.0.0.1:0"} < set(container["args"])
    tls = Volume(tmp_path / "tls", pod["securityContext"]["fsGroup"])
    tls.write(certificates(tmp_path, "nodes"))
    keys = Volume(tmp_path / "keys", pod["securityContext"]["fsGroup"])
    keys.write({"image.key": b"a" * 32})
    log = tmp_path / "log"
    (tmp_path / "node").mkdir()
    (tmp_path / "containers").mkdir()
    with Containerd(tmp_path / "node") as node:
        kubelet = Kubelet(node, image, tmp_path / "containers")
        options = ("--detach", "--net-host", "--log-uri", f"file://{log}")
        started = kubelet.start(pod, container, {"tls": str(tls.directory), "keys": str(keys.directory)}, *options)
        assert started.returncode == 0, started.stderr
        wait_for(lambda: "listening on" in log.read_text())
        target = log.read_text().partition("listening on ")[2].split()[0]
        with connected(target, tmp_path, "nodes-client") as channel:
            assert method_of(channel, "/grpc.health.v1.Health/Check")(b"", timeout=_SECONDS) == b"\x08\x01"
            request = request_of("keywrap", private_options(), {"local": ["local://image.key"]})
            wrapped = result_of(ask(channel, "WrapKey", request))
            assert result_of(ask(channel, "UnWrapKey", request_of("keyunwrap", wrapped))) == private_options()
        with connected(target, tmp_path, "") as channel, pytest.raises(grpc.RpcError):
            method_of(channel, "/grpc.health.v1.Health/Check")(message(b""), timeout=_SECONDS)
        before = time.monotonic()
        assert node.ctr("tasks", "kill", "--signal", "SIGTERM", container["name"]).returncode == 0
        wait_for(lambda: "stopped" in log.read_text())
        assert time.monotonic() - before < pod["terminationGracePeriodSeconds"]


@contextmanager
def connected(target: str, directory: Path, client: str) -> Iterator[grpc.Channel]:
    own = [(directory / f"{client}.{suffix}").read_bytes() for suffix in ("key", "pem")] if client else []
    credentials = grpc.ssl_channel_credentials((directory / "nodes.pem").read_bytes(), *own)
    options = (("grpc.ssl_target_name_override", "keyprovider"),)
    with grpc.secure_channel(target, credentials, options) as channel:
        yield channel
