"""The wall time of `ctr images pull` through containerd, in its default configuration, from a registry on loopback.

Each pull has a fresh root, and each decoder the client that it needs: ours stock ctr, which sends no payload, and the
reference imgcrypt's ctr, which sends one.
"""

from __future__ import annotations

import gzip
import hashlib
import io
import os
import re
import signal
import subprocess
import tarfile
import time
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import NamedTuple

from bench.decoders import IMGCRYPT, PACKAGE, REFERENCE, ROOT, WARM, package_tree
from bench.figures import Figure
from bench.layers import private_pem, public_pem, rsa_key
from bench.ours import write_layout
from bench.parts import IMAGE_BYTES
from bench.run import Run, RunError

_CONTAINERDS = {"1.7": ROOT / ".cache/containerd-trixie/usr/bin", "2.1": ROOT / ".cache/containerd-forky/usr/bin"}
_IMAGES = {"21 small layers": [1024] * 21, "the image of 21 layers": list(IMAGE_BYTES)}
_KEY = "/etc/containerd/ocicrypt/keys/key.pem"  # where containerd's default configuration looks
_SOCKET = "/run/own/containerd.sock"
_SECONDS = 120.0
# In mount and PID namespaces of its own, with an empty /run and /opt and an /etc/containerd that has one key.
_INIT = f"""\
mount -t tmpfs -o mode=755 tmpfs /run && mkdir -p /run/own/etc /run/own/work
mount -t overlay overlay -o lowerdir=/etc,upperdir=/run/own/etc,workdir=/run/own/work /etc
mkdir -p /etc/containerd /opt && mount -t tmpfs tmpfs /etc/containerd && mount -t tmpfs tmpfs /opt
install -D -m 600 "$1" {_KEY}
exec containerd --root /run/own/root --state /run/own/state --address {_SOCKET}
"""


class _Way(NamedTuple):
    """A decoder's directory, which comes first on containerd's PATH, and the command that pulls with it."""

    programs: Path
    pull: list[str]


def pulls(rounds: int) -> Iterator[Figure]:
    """Pull two images of each kind one after the other, with each decoder in turn.

    The second finds whatever the first has left running.
    """
    ours = _Way(package_tree() / "usr/bin", ["ctr"])
    theirs = _Way(IMGCRYPT / "bin", [str(IMGCRYPT / "bin/ctr-imgcrypt")])
    with TemporaryDirectory() as name, _registry(Path(name)) as registry:
        key = Path(name, "key.pem")
        key.write_bytes(private_pem(rsa_key()))
        Path(name, "key.pub").write_bytes(public_pem(rsa_key()))
        for kind, sizes in _IMAGES.items():
            references = [_push(Path(name), f"{registry}/image{len(sizes)}-{sizes[0]}:{n}", sizes) for n in range(2)]
            for version, programs in _CONTAINERDS.items():
                taken: dict[str, list[list[Run]]] = {REFERENCE: [], PACKAGE: []}
                for _ in range(rounds):
                    taken[REFERENCE].append(_pull(key, programs, theirs, references, "--key", _KEY))
                    taken[PACKAGE].append(_pull(key, programs, ours, references))
                for place, ours_is in enumerate((PACKAGE, WARM)):
                    runs = {REFERENCE: [each[place] for each in taken[REFERENCE]],
                            ours_is: [each[place] for each in taken[PACKAGE]]}  # fmt: skip
                    yield Figure("pull", f"{version}, {kind}, {('first', 'second')[place]}", len(sizes), runs)


def _pull(key: Path, programs: Path, way: _Way, references: Sequence[str], *options: str) -> list[Run]:
    """Start containerd on a fresh root, and pull images through it."""
    path = f"{way.programs}:{programs}:{os.environ['PATH']}:/usr/sbin:/sbin"
    environment = {**os.environ, "PATH": path}
    unshare = ["unshare", "--mount", "--pid", "--fork", "--kill-child", "--mount-proc"]
    runs = []
    with TemporaryDirectory() as name, Path(name, "log").open("wb") as log:
        server = subprocess.Popen(  # in the directory in which an init system starts it
            [*unshare, "sh", "-ec", _INIT, "sh", key], stderr=log, stdout=log, env=environment, cwd="/"
        )
        try:
            _wait_for(Path(name, "log"), "containerd successfully booted", server)
            inside = Path(f"/proc/{server.pid}/task/{server.pid}/children").read_text().strip()
            enter = ["nsenter", "--target", inside, "--mount", "--pid"]
            for reference in references:
                pull = [*way.pull, "--address", _SOCKET, "images", "pull", *options, "--plain-http", reference]
                started = time.perf_counter()
                done = subprocess.run([*enter, *pull], capture_output=True, text=True, env=environment, check=False)
                runs.append(Run(time.perf_counter() - started))
                if done.returncode:
                    raise RunError(f"{way.pull[0]}: {done.stderr.strip()}")
            os.kill(int(inside), signal.SIGKILL)  # and with it everything in its namespace
        finally:
            server.kill()
            server.wait()
    return runs


@contextmanager
def _registry(directory: Path) -> Iterator[str]:
    configuration, log = directory / "registry.yml", directory / "registry.log"
    configuration.write_text(
        f"version: 0.1\nstorage: {{filesystem: {{rootdirectory: {directory}}}}}\nhttp: {{addr: '127.0.0.1:0'}}\n"
    )
    with log.open("wb") as errors:
        server = subprocess.Popen(["docker-registry", "serve", configuration], stderr=errors, stdout=subprocess.DEVNULL)
    try:
        yield _wait_for(log, "listening on ", server).split('"')[0].split()[0]
    finally:
        server.kill()
        server.wait()


def _push(directory: Path, reference: str, sizes: Sequence[int]) -> str:
    """Make an image with layers of these sizes, no two alike, and push it encrypted."""
    source = directory / re.sub(r"\W", "-", reference)
    diff_ids, layers = [], []
    for size in sizes:
        file = io.BytesIO()
        with tarfile.open(fileobj=file, mode="w") as archive:
            member = tarfile.TarInfo(os.urandom(8).hex())
            member.size = size
            archive.addfile(member, io.BytesIO(os.urandom(size)))
        diff_ids.append(f"sha256:{hashlib.sha256(file.getvalue()).hexdigest()}")
        layers.append([gzip.compress(file.getvalue(), 1)])
    write_layout(source, layers, diff_ids)
    copy = ["skopeo", "--insecure-policy", "copy", "--quiet", "--dest-tls-verify=false"]
    recipient = ["--encryption-key", f"jwe:{directory}/key.pub"]
    subprocess.run([*copy, *recipient, f"oci:{source}:x", f"docker://{reference}"], check=True, timeout=_SECONDS)
    return reference


def _wait_for(log: Path, text: str, server: subprocess.Popen[bytes]) -> str:
    """Wait until a server says something, and return what follows it in its log."""
    deadline = time.monotonic() + _SECONDS
    while text not in (content := log.read_text()):
        if server.poll() is not None or time.monotonic() > deadline:
            raise RunError(f"a server did not start: {content}")
        time.sleep(0.02)
    time.sleep(0.05)  # for the rest of the line
    return log.read_text().partition(text)[2]
