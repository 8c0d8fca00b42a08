"""The wall time of `ctr images pull` through containerd, in its default configuration, from a registry on loopback.

Each pair of pulls has a fresh root. Ours is pulled with containerd's own ctr, which sends no payload; the reference
needs one, so it is pulled with imgcrypt's ctr. The same image without encryption shows what containerd itself takes.
"""

import os
import re
import shutil
import signal
import subprocess
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path
from tempfile import TemporaryDirectory

from bench.decoders import CASES
from bench.images.source import seconds, write_image
from bench.layers import public_pem, rsa_key
from bench.programs import (
    GIB,
    IMGCRYPT,
    PACKAGE,
    PACKAGE_TREE,
    REFERENCE,
    ROOT,
    SECONDS,
    WARM,
    Bench,
    children,
    serving,
)
from bench.report.figures import Figure

_CONTAINERDS = {"1.7": ROOT / ".cache/containerd-trixie/usr/bin", "2.1": ROOT / ".cache/containerd-forky/usr/bin"}
_SIZES = CASES["image"][0].sizes
_IMAGES = {"21 small layers": [1024] * 21, "the image of 21 layers": _SIZES, "a layer of 1 GiB": [GIB]}
_PLAIN = "not encrypted"
_PLAIN_TAG = "-plain"  # at the end of its reference
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


def pull(bench: Bench) -> Iterator[Figure]:
    """Pull two images of each kind one after the other, with each decoder in turn.

    The second one finds whatever the first one has left running. There is one image of a layer of 1 GiB.
    """
    with TemporaryDirectory() as name, _registry(Path(name)) as registry:
        Path(name, "key.pem").write_bytes(rsa_key())
        Path(name, "key.pub").write_bytes(public_pem(rsa_key()))
        for number, (kind, sizes) in enumerate(_IMAGES.items()):
            if max(sizes) > bench.largest:
                continue
            columns = {"first": PACKAGE} if max(sizes) >= GIB else {"first": PACKAGE, "second": WARM}
            references = [_push(Path(name), f"{registry}/image{number}:{place}", sizes) for place in columns]
            for version, containerd in _CONTAINERDS.items():
                taken: dict[str, list[list[float]]] = {REFERENCE: [], PACKAGE: [], _PLAIN: []}
                for _ in range(bench.turns(3) if max(sizes) < GIB else 2):
                    for program, pulls in taken.items():
                        pulls.append(_pulls(Path(name, "key.pem"), containerd, program, references))
                for index, (place, column) in enumerate(columns.items()):
                    runs = {program: [each[index] for each in pulls] for program, pulls in taken.items()}
                    runs[column] = runs.pop(PACKAGE)
                    yield Figure(f"pull through containerd {version}, {kind}, {place}", "time", runs)


def _pulls(key: Path, containerd: Path, program: str, references: Sequence[str]) -> list[float]:
    """Start containerd on a fresh root, pull images through it, and return the seconds of each."""
    programs, command, options = PACKAGE_TREE / "bin", "ctr", []
    if program == REFERENCE:
        programs, command, options = IMGCRYPT / "bin", str(IMGCRYPT / "bin/ctr-imgcrypt"), ["--key", _KEY]
    tag = _PLAIN_TAG if program == _PLAIN else ""
    environment = {**os.environ, "PATH": f"{programs}:{containerd}:{os.environ['PATH']}:/usr/sbin:/sbin"}
    unshare = ["unshare", "--mount", "--pid", "--fork", "--kill-child", "--mount-proc", "sh", "-ec", _INIT, "sh", key]
    with serving(unshare, "containerd successfully booted", environment) as (server, _):
        (inside,) = children(server.pid)
        enter = ["nsenter", "--target", str(inside), "--mount", "--pid"]
        pull = [command, "--address", _SOCKET, "images", "pull", *options, "--plain-http"]
        taken = [seconds([*enter, *pull, reference + tag], environment) for reference in references]
        os.kill(inside, signal.SIGKILL)  # and with it everything in its namespace
        server.wait(SECONDS)
    return taken


@contextmanager
def _registry(directory: Path) -> Iterator[str]:
    configuration = directory / "registry.yml"
    configuration.write_text(
        f"version: 0.1\nstorage: {{filesystem: {{rootdirectory: {directory}}}}}\nhttp: {{addr: '127.0.0.1:0'}}\n"
    )
    with serving(["docker-registry", "serve", configuration], "listening on ") as (_, rest):
        yield rest.split('"')[0].split()[0]


def _push(directory: Path, reference: str, sizes: Sequence[int]) -> str:
    """Build an image with layers of these sizes; push it encrypted, and plain."""
    source = directory / re.sub(r"\W", "-", reference)
    write_image(source, sizes)
    copy = ["skopeo", "--insecure-policy", "copy", "--quiet", "--dest-tls-verify=false"]
    recipient = ["--encryption-key", f"jwe:{directory}/key.pub"]
    for options, target in ((recipient, reference), ([], reference + _PLAIN_TAG)):
        subprocess.run([*copy, *options, f"oci:{source}:x", f"docker://{target}"], check=True, timeout=5 * SECONDS)
    shutil.rmtree(source)
    return reference
