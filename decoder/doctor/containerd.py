"""Which containerd there is, and what configuration it runs with."""

from __future__ import annotations

import os
import re
import shutil
import subprocess
import tomllib
from typing import NamedTuple

from decoder import limits
from decoder.doctor.finding import Finding
from decoder.errors import quoted

DEFAULT_FILE = "/etc/containerd/config.toml"
# What systemd gives services, if no containerd runs that could be asked.
_SERVICE_PATH = "/usr/local/sbin:/usr/local/bin:/usr/sbin:/usr/bin:/sbin:/bin"


class Containerd(NamedTuple):
    """What is known of it.

    Attributes:
        version: as three numbers, or () if it is not known.
        configuration: the one in force, or as far as the file has it; {} if neither could be read.
        path: where containerd looks for programs.
    """

    version: tuple[int, ...]
    configuration: dict[str, object]
    path: str


def examine(file: str, findings: list[Finding]) -> Containerd:
    """Find containerd and the configuration in force.

    Args:
        file: containerd's configuration file; "" for that of the containerd that runs, or else the usual one.
        findings: takes what was found.
    """
    process = _running()
    path = _environment(process).get("PATH", _SERVICE_PATH) if process else _SERVICE_PATH
    file = file or (_configured_file(process) if process else "") or DEFAULT_FILE
    program = shutil.which("containerd") or shutil.which("containerd", path=path)
    version = _version(program, findings) if program else ()
    if not program:
        findings.append(
            Finding("error", "containerd", "no such program on PATH", "install containerd, or set PATH to find it")
        )
    elif not process:
        findings.append(Finding("warning", "containerd", "it does not run, or not where this process sees it"))
    in_file, is_readable = _read_file(file, findings)
    in_force = _dump(program, file, findings) if program and is_readable else None
    return Containerd(version, in_force if in_force is not None else in_file, path)


def _version(program: str, findings: list[Finding]) -> tuple[int, ...]:
    output, _ = run([program, "--version"])
    match = re.search(r"\sv?([0-9]{1,4})\.([0-9]{1,4})\.([0-9]{1,4})", output)
    if not match:
        text = f"{program} does not tell its version: {quoted(output.strip())}"
        findings.append(Finding("error", "containerd", text, "see whether it starts at all"))
        return ()
    findings.append(Finding("ok", "containerd", f"version {match[0].strip()} ({program})"))
    return tuple(int(number) for number in match.groups())


def _read_file(file: str, findings: list[Finding]) -> tuple[dict[str, object], bool]:
    """Read the file itself, whose errors are told better here than by containerd.

    Returns:
        What it says, and whether it can be read; a file that is not there says nothing.
    """
    where = f"the file {quoted(file)}"
    try:
        with open(file, "rb") as opened:
            return tomllib.loads(opened.read(limits.CONFIGURATION_BYTES).decode()), True
    except FileNotFoundError:
        findings.append(
            Finding("ok", "configuration", f"there is no {where.removeprefix('the ')}: the defaults are in force")
        )
        return {}, True
    except OSError as error:
        findings.append(Finding("error", "configuration", f"{where}: {error.strerror}", "run the doctor as root"))
    except ValueError as error:
        findings.append(Finding("error", "configuration", f"{where} is not TOML: {error}", "correct the file there"))
    return {}, False


def _dump(program: str, file: str, findings: list[Finding]) -> dict[str, object] | None:
    chosen = ["--config", file] if os.path.exists(file) else []
    output, failure = run([program, *chosen, "config", "dump"])
    try:
        if not failure:
            dumped = tomllib.loads(output)
            findings.append(Finding("ok", "configuration", f"version {dumped.get('version')}, as containerd shows it"))
            return dumped
    except ValueError as error:
        failure = str(error)
    text = f"containerd cannot show the configuration in force ({failure}), so only the file was looked at"
    findings.append(
        Finding("error", "configuration", text, f"see what `{' '.join([program, *chosen, 'config', 'dump'])}` says")
    )
    return None


def run(command: list[str]) -> tuple[str, str]:
    """Run a program that only tells something, for DOCTOR_SECONDS at most.

    Returns:
        Its standard output, and why it failed, or "".
    """
    try:
        result = subprocess.run(  # noqa: S603 - containerd, or what containerd is configured to run
            command,
            stdin=subprocess.DEVNULL,
            capture_output=True,
            timeout=limits.DOCTOR_SECONDS,
            check=False,
        )
    except subprocess.TimeoutExpired:
        return "", f"it did not end within {limits.DOCTOR_SECONDS:.0f} seconds"
    except OSError as error:
        return "", error.strerror or type(error).__name__
    output, errors = (text.decode(errors="replace") for text in (result.stdout, result.stderr))
    return output, quoted(errors.strip() or f"exit status {result.returncode}") if result.returncode else ""


def _running() -> int:
    """Find the process of a containerd that runs; 0 if there is none."""
    for name in os.listdir("/proc"):
        if name.isdigit():
            try:
                with open(f"/proc/{name}/comm") as file:
                    if file.read().strip() == "containerd":
                        return int(name)
            except OSError:
                continue
    return 0


def _environment(process: int) -> dict[str, str]:
    try:
        with open(f"/proc/{process}/environ", "rb") as file:
            entries = os.fsdecode(file.read(limits.COMMAND_LINE_BYTES)).split("\0")
    except OSError:
        return {}
    return {name: value for name, equals, value in (entry.partition("=") for entry in entries) if equals}


def _configured_file(process: int) -> str:
    try:
        with open(f"/proc/{process}/cmdline", "rb") as file:
            arguments = os.fsdecode(file.read(limits.COMMAND_LINE_BYTES)).split("\0")
    except OSError:
        return ""
    for argument, following in zip(arguments, [*arguments[1:], ""], strict=True):
        name, equals, value = argument.partition("=")
        if name in ("--config", "-config", "-c", "--c"):
            return value if equals else following
    return ""
