"""A booted systemd with containerd's own unit, on an overlay of this machine's files: whatever it does, those stay."""

from __future__ import annotations

import os
import subprocess
import time
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from pathlib import Path

_SECONDS = 120
_CGROUPS = Path("/sys/fs/cgroup")
_OWN_CGROUP = f"ctd-decoder-test-{os.getpid()}"
_NAMESPACES = ["--mount", "--pid", "--fork", "--kill-child", "--uts", "--ipc", "--net", "--cgroup"]
_LEAVE_OUT = ("systemd-udevd.service", "systemd-udev-trigger.service", "systemd-journal-flush.service")

# Only systemd's own control group is needed, so that this works where the others belong to somebody else.
_BOOT = f"""\
set -e
mount -t tmpfs tmpfs "$1"
cd "$1"
mkdir upper work root
mount -t overlay overlay -o lowerdir=/,upperdir=upper,workdir=work root
cd root
mount -t proc proc proc
mount -t sysfs sysfs sys
mount -t tmpfs -o mode=755 tmpfs sys/fs/cgroup
mkdir sys/fs/cgroup/systemd
mount -t cgroup -o none,name=systemd cgroup sys/fs/cgroup/systemd
mount -t tmpfs -o mode=755 tmpfs dev
for name in null zero full random urandom tty; do
    touch dev/$name
    mount --bind /dev/$name dev/$name
done
mkdir dev/shm
for place in run tmp var/lib/containerd; do
    mkdir -p $place
    mount -t tmpfs -o mode=755 tmpfs $place
done
rm -rf etc/systemd/system/*.wants
mkdir -p etc/systemd/system run/ctd-decoder-test
for unit in {" ".join(_LEAVE_OUT)}; do ln -sf /dev/null etc/systemd/system/$unit; done
printf '[Unit]\\nWants=containerd.service\\n' >etc/systemd/system/test.target
mount --bind "$2" run/ctd-decoder-test
mkdir .before
pivot_root . .before
umount --lazy .before
exec env --ignore-environment container=other PATH=/usr/sbin:/usr/bin:/sbin:/bin /lib/systemd/systemd --unit=test.target
"""


class Booted:
    """A machine whose first process is systemd.

    Args:
        first: the process of systemd, as this machine numbers it.
    """

    def __init__(self, first: int) -> None:
        self._first = first

    def run(self, *command: str, expect: int | None = 0) -> str:
        """Run a command there, and return what it printed; None expects nothing of its exit status."""
        enter = ["nsenter", f"--target={self._first}", "--mount", "--pid", "--ipc", "--net", "--uts", "--root", "--wd"]
        result = subprocess.run(
            [*enter, *command],
            stdin=subprocess.DEVNULL,
            stdout=subprocess.PIPE,
            stderr=subprocess.STDOUT,
            text=True,
            timeout=_SECONDS,
            check=False,
            env={"PATH": "/usr/sbin:/usr/bin:/sbin:/bin", "LC_ALL": "C.UTF-8"},
        )
        assert expect in (None, result.returncode), f"{command}: {result.returncode}\n{result.stdout}"
        return result.stdout

    def show(self, unit: str, name: str) -> str:
        """Return a property of a unit."""
        return self.run("systemctl", "show", "--value", "--property", name, unit).strip()

    def wait_for(self, unit: str, state: str) -> None:
        """Wait until a unit is in a state such as `active`."""
        end = time.monotonic() + _SECONDS
        while (now := self.run("systemctl", "is-active", unit, expect=None).strip()) != state:
            assert time.monotonic() < end, f"{unit} is {now}: {self.run('systemctl', 'status', unit, expect=None)}"
            time.sleep(0.1)


@contextmanager
def booted(directory: Path) -> Iterator[Booted]:
    """Boot, and give the machine once containerd runs; nothing of it is left afterwards.

    Args:
        directory: an empty one; its directory `shared` is /run/ctd-decoder-test there.
    """
    base, shared = directory / "base", directory / "shared"
    base.mkdir()
    shared.mkdir(exist_ok=True)
    own_cgroups = _make_cgroups()
    enter = "".join(f"echo $$ >{each}/cgroup.procs || exit\n" for each in own_cgroups) + 'exec "$@"'
    command: list[str | Path] = [
        "setpriv",
        "--pdeathsig",
        "KILL",
        "unshare",
        *_NAMESPACES,
        "sh",
        "-c",
        _BOOT,
        "sh",
        base,
        shared,
    ]
    with (directory / "log").open("wb") as log:
        process = subprocess.Popen(
            ["sh", "-c", enter, "sh", *command], stdin=subprocess.DEVNULL, stdout=log, stderr=log, cwd="/"
        )
    try:
        machine = Booted(_wait_for_systemd(process, directory / "log"))
        machine.wait_for("containerd.service", "active")
        yield machine
    finally:
        process.kill()
        process.wait()
        for each in own_cgroups:
            _remove(each)


def _make_cgroups() -> list[Path]:
    """Make a control group in each hierarchy that systemd would use, so that it shares none with another systemd.

    Only systemd's own hierarchy is needed: others may belong to somebody else, and systemd leaves those alone as well.
    """
    made = [_CGROUPS / "systemd" / _OWN_CGROUP]
    made[0].mkdir()
    for other in ("unified", "pids", "devices", "memory"):
        with suppress(OSError):
            (_CGROUPS / other / _OWN_CGROUP).mkdir()
            made.append(_CGROUPS / other / _OWN_CGROUP)
    return made


def _wait_for_systemd(process: subprocess.Popen[bytes], log: Path) -> int:
    """Return the number of systemd's process, once it answers."""
    end = time.monotonic() + _SECONDS
    children = Path(f"/proc/{process.pid}/task/{process.pid}/children")
    while True:
        assert process.poll() is None, log.read_text()
        assert time.monotonic() < end, log.read_text()
        for child in children.read_text().split():
            if Path(f"/proc/{child}/root/run/systemd/private").exists() and _name(child) == "systemd":
                return int(child)
        time.sleep(0.1)


def _name(process: str) -> str:
    return Path(f"/proc/{process}/comm").read_text().strip()


def _remove(cgroup: Path) -> None:
    """Remove a control group and those in it, once the kernel has noticed that their processes are gone."""
    end = time.monotonic() + _SECONDS
    for each in sorted((path for path in (cgroup, *cgroup.rglob("*")) if path.is_dir()), reverse=True):
        while True:
            try:
                each.rmdir()
                break
            except OSError:
                assert time.monotonic() < end, f"{each} is not empty"
                time.sleep(0.05)
