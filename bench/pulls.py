"""The wall time of `ctr images pull` through containerd, in its default configuration, from a registry on loopback.

Each pair of pulls has a fresh root. Ours is pulled with containerd's own ctr, which sends no payload; the reference
needs one, so it is pulled with imgcrypt's ctr. The same image without encryption shows what containerd itself takes.
"""

from __future__ import annotations

import gzip
import hashlib
import io
import os
import re
import shutil
import signal
import subprocess
import tarfile
import time
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from pathlib import Path
from tempfile import TemporaryDirectory

from bench.decoders import IMAGE_BYTES, Extent
from bench.figures import PLAIN, Figure
from bench.layers import private_pem, public_pem, rsa_key, write_layout
from bench.programs import (
    GIB,
    IMGCRYPT,
    MIB,
    PACKAGE,
    REFERENCE,
    ROOT,
    SECONDS,
    WARM,
    Run,
    RunError,
    package_tree,
    serving,
)

_CONTAINERDS = {"1.7": ROOT / ".cache/containerd-trixie/usr/bin", "2.1": ROOT / ".cache/containerd-forky/usr/bin"}
_IMAGES = {"21 small layers": [1024] * 21, "the image of 21 layers": IMAGE_BYTES, "a layer of 1 GiB": [GIB]}
_COMPRESSED_BYTES = 256 * MIB  # larger layers are not: compressing noise would only take time
_NOT_ENCRYPTED = "-plain"  # at the end of a reference
_KEY = "/etc/containerd/ocicrypt/keys/key.pem"  # where containerd's default configuration looks
_SOCKET = "/run/own/containerd.sock"
# In mount and PID namespaces of its own, with an empty /run and /opt and an /etc/containerd that has one key.
_INIT = f"""\
mount -t tmpfs -o mode=755 tmpfs /run && mkdir -p /run/own/etc /run/own/work
mount -t overlay overlay -o lowerdir=/etc,upperdir=/run/own/etc,workdir=/run/own/work /etc
mkdir -p /etc/containerd /opt && mount -t tmpfs tmpfs /etc/containerd && mount -t tmpfs tmpfs /opt
install -D -m 600 "$1" {_KEY}
exec containerd --root /run/own/root --state /run/own/state --address {_SOCKET}
"""


def pull(_programs: Mapping[str, Path], extent: Extent) -> Iterator[Figure]:
    """Pull two images of each kind one after the other, with each decoder in turn.

    The second one finds whatever the first one has left running.
    """
    with TemporaryDirectory() as name, _registry(Path(name)) as registry:
        Path(name, "key.pem").write_bytes(private_pem(rsa_key()))
        Path(name, "key.pub").write_bytes(public_pem(rsa_key()))
        for number, (kind, sizes) in enumerate(_IMAGES.items()):
            if max(sizes) > extent.largest:
                continue
            columns = (PACKAGE,) if max(sizes) >= GIB else (PACKAGE, WARM)
            repository = f"{registry}/image{number}"
            references = [_push(Path(name), f"{repository}:{version}", sizes) for version in range(len(columns))]
            for version, containerd in _CONTAINERDS.items():
                taken: dict[str, list[list[Run]]] = {REFERENCE: [], PACKAGE: [], PLAIN: []}
                for _ in range(extent.rounds_of(GIB) if max(sizes) < GIB else 2):
                    for program, runs in taken.items():
                        runs.append(_pulls(Path(name, "key.pem"), containerd, program, references))
                for place, column in enumerate(columns):
                    of_place = {program: [each[place] for each in runs] for program, runs in taken.items()}
                    of_place[column] = of_place.pop(PACKAGE)
                    what = f"pull through containerd {version}, {kind}, {('first', 'second')[place]}"
                    yield Figure("pull", what, len(sizes), of_place)


def _pulls(key: Path, containerd: Path, program: str, references: Sequence[str]) -> list[Run]:
    """Start containerd on a fresh root, and pull images through it."""
    programs, command = IMGCRYPT / "bin", [str(IMGCRYPT / "bin/ctr-imgcrypt")]
    options = ["--key", _KEY]
    if program != REFERENCE:
        programs, command, options = package_tree() / "usr/bin", ["ctr"], []
    if program == PLAIN:
        references = [f"{reference}{_NOT_ENCRYPTED}" for reference in references]
    environment = {**os.environ, "PATH": f"{programs}:{containerd}:{os.environ['PATH']}:/usr/sbin:/sbin"}
    unshare = ["unshare", "--mount", "--pid", "--fork", "--kill-child", "--mount-proc", "sh", "-ec", _INIT, "sh", key]
    runs = []
    with serving(list(map(str, unshare)), "containerd successfully booted", environment) as (server, _):
        inside = Path(f"/proc/{server.pid}/task/{server.pid}/children").read_text().strip()
        enter = ["nsenter", "--target", inside, "--mount", "--pid"]
        for reference in references:
            pull = [*command, "--address", _SOCKET, "images", "pull", *options, "--plain-http", reference]
            started = time.perf_counter()
            done = subprocess.run([*enter, *pull], capture_output=True, text=True, env=environment, check=False)
            runs.append(Run(time.perf_counter() - started))
            if done.returncode:
                raise RunError(f"{command[0]}: {done.stderr.strip()}")
        os.kill(int(inside), signal.SIGKILL)  # and with it everything in its namespace
        server.wait(SECONDS)
    return runs


@contextmanager
def _registry(directory: Path) -> Iterator[str]:
    configuration = directory / "registry.yml"
    configuration.write_text(
        f"version: 0.1\nstorage: {{filesystem: {{rootdirectory: {directory}}}}}\nhttp: {{addr: '127.0.0.1:0'}}\n"
    )
    with serving(["docker-registry", "serve", str(configuration)], "listening on ") as (_, rest):
        yield rest.split('"')[0].split()[0]


def _push(directory: Path, reference: str, sizes: Sequence[int]) -> str:
    """Build an image with layers of these sizes, no two of them alike; push it encrypted, and plain."""
    source = directory / re.sub(r"\W", "-", reference)
    diff_ids, layers = [], []
    for size in sizes:
        file = io.BytesIO()
        with tarfile.open(fileobj=file, mode="w") as archive:
            member = tarfile.TarInfo(os.urandom(8).hex())
            member.size = size
            archive.addfile(member, io.BytesIO(os.urandom(size)))
        diff_ids.append(f"sha256:{hashlib.sha256(file.getvalue()).hexdigest()}")
        layers.append([gzip.compress(file.getvalue(), int(size < _COMPRESSED_BYTES))])
    write_layout(source, layers, diff_ids)
    copy = ["skopeo", "--insecure-policy", "copy", "--quiet", "--dest-tls-verify=false"]
    recipient = ["--encryption-key", f"jwe:{directory}/key.pub"]
    for options, target in ((recipient, reference), ([], f"{reference}{_NOT_ENCRYPTED}")):
        subprocess.run([*copy, *options, f"oci:{source}:x", f"docker://{target}"], check=True, timeout=SECONDS)
    shutil.rmtree(source)
    return reference
