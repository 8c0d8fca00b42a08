"""The stream processors that are configured, and the CRI plugin beside them."""

from __future__ import annotations

import os
import shutil
from typing import NamedTuple, cast

from decoder import __version__
from decoder.arguments import parse_arguments
from decoder.doctor.containerd import Containerd, run
from decoder.doctor.finding import Finding, Level
from decoder.errors import UsageError, quoted
from decoder.node import containerdconfig
from decoder.node.containerdconfig import (
    CRI_PLUGINS,
    KEYPROVIDER_FILE,
    KEYPROVIDER_VARIABLE,
    KEYS_DIRECTORY,
    PROCESSORS,
    PROGRAM,
)

_PRINT = "compare with what `ctd-decoder config containerd` prints"
_CRI_WITHOUT_PAYLOAD = (2, 1)
# Between these versions (the first has the defect, the second no longer) the CRI plugin never asked for decryption.
_CRI_WITHOUT_DECRYPTION = (((2, 0, 0), (2, 0, 12)), ((2, 1, 0), (2, 1, 7)), ((2, 2, 0), (2, 2, 2)))


class Used(NamedTuple):
    """What the processors were told to use: keys directories and keyprovider files, each once."""

    keys_directories: list[str]
    keyprovider_files: list[str]


def examine(containerd: Containerd, findings: list[Finding]) -> Used:
    """Compare the processors that are configured with those that decrypt layers.

    Args:
        containerd: with the configuration in force.
        findings: takes what was found.
    """
    used = Used([], [])
    configured = table(containerd.configuration, "stream_processors")
    ours = {name: table(configured, name) for name in configured if _encrypted(table(configured, name))}
    if not containerd.version and not ours:
        findings.append(Finding("warning", "processors", "what containerd would use is not known", _PRINT))
    elif not ours:
        findings.append(Finding("error", "processors", "none takes encrypted layers", _PRINT))
    else:
        _check_types(ours, findings)
    for name, processor in ours.items():
        _check_command(name, processor, used, findings)
    programs = dict.fromkeys(str(processor.get("path") or PROGRAM) for processor in ours.values())
    for program in programs or [PROGRAM]:
        _check_program(program, containerd.path, findings)
    return Used(used.keys_directories or [KEYS_DIRECTORY], used.keyprovider_files or [KEYPROVIDER_FILE])


def examine_cri(containerd: Containerd, findings: list[Finding]) -> None:
    """Tell whether what Kubernetes pulls is decrypted."""
    subject = "Kubernetes (CRI)"
    names = set(CRI_PLUGINS.values())
    disabled = containerd.configuration.get("disabled_plugins")
    if isinstance(disabled, list) and any(
        name in disabled or name.removeprefix("io.containerd.") in disabled for name in names
    ):
        findings.append(Finding("ok", subject, "the plugin is disabled"))
        return
    plugins = table(containerd.configuration, "plugins")
    plugin = next((table(plugins, name) for name in sorted(names) if name in plugins), {})
    model = table(plugin, "image_decryption").get("key_model", "node")
    if model != "node":
        remedy = 'set image_decryption.key_model = "node" in its section'
        findings.append(Finding("error", subject, f"its key model is {quoted(model)}, so it never decrypts", remedy))
        return
    is_local = plugin.get("use_local_image_pull") is True
    if any(first <= containerd.version < fixed for first, fixed in _CRI_WITHOUT_DECRYPTION) and is_local:
        version = ".".join(map(str, containerd.version))
        text = f"containerd {version} does not ask for decryption when it pulls by itself"
        findings.append(Finding("warning", subject, text, "update containerd; until then descriptors are looked up"))
    elif containerd.version >= _CRI_WITHOUT_PAYLOAD and not is_local:
        text = "it pulls through the transfer service, which sends no payload; so descriptors are looked up"
        remedy = "nothing, if the content store can be read; or set use_local_image_pull = true in its section"
        findings.append(Finding("warning", subject, text, remedy))
    else:
        findings.append(Finding("ok", subject, "pulls are decrypted with the keys of this node"))


def table(value: dict[str, object], name: str) -> dict[str, object]:
    """Return a table of a TOML document, or an empty one."""
    inner = value.get(name)
    return cast("dict[str, object]", inner) if isinstance(inner, dict) else {}


def _encrypted(processor: dict[str, object]) -> list[str]:
    return [text for text in _texts(processor, "accepts") if text.endswith("+encrypted")]


def _texts(value: dict[str, object], name: str) -> list[str]:
    items = value.get(name)
    return [item for item in items if isinstance(item, str)] if isinstance(items, list) else []


def _check_types(ours: dict[str, dict[str, object]], findings: list[Finding]) -> None:
    identifiers = {processor.identifier for processor in PROCESSORS}
    plain = {processor.returns for processor in PROCESSORS}
    before = len(findings)
    for expected in PROCESSORS:
        if expected.identifier not in ours:
            text = f"there is none with the ID {expected.identifier}, one of the two that clients know"
            findings.append(Finding("error", "processors", text, _PRINT))
            continue
        returned = ours[expected.identifier].get("returns")
        if returned not in plain:
            text = f"{expected.identifier} returns {quoted(returned)}, which is no plain layer"
            findings.append(Finding("error", "processors", text, f'set returns = "{expected.returns}"'))
        for media_type in expected.accepts:
            takers = [name for name in ours if media_type in _texts(ours[name], "accepts")]
            if not takers:
                level: Level = "error" if media_type == expected.accepts[0] else "warning"
                remedy = f"add it to accepts of {expected.identifier}"
                findings.append(Finding(level, "processors", f"layers of {media_type} are refused", remedy))
            elif not identifiers & set(takers):
                text = f"{media_type} is taken by {', '.join(takers)}, an ID for which clients send no payload"
                findings.append(Finding("warning", "processors", text, f"add it to accepts of {expected.identifier}"))
    if len(findings) == before:
        findings.append(Finding("ok", "processors", "both IDs that clients know take all encrypted layers"))


def _check_command(name: str, processor: dict[str, object], used: Used, findings: list[Finding]) -> None:
    arguments = _texts(processor, "args")
    try:
        keys_directory = parse_arguments(arguments).keys_directory
    except UsageError as error:
        findings.append(Finding("error", "processors", f"the args of {name}: {error}", _PRINT))
        keys_directory = ""
    if not keys_directory:
        remedy = f'add "{containerdconfig.KEYS_OPTION}", "{KEYS_DIRECTORY}" to its args, unless that is meant'
        findings.append(Finding("warning", "processors", f"{name} has no keys directory", remedy))
    elif keys_directory not in used.keys_directories:
        used.keys_directories.append(keys_directory)
    for entry in _texts(processor, "env"):
        variable, _, file = entry.partition("=")
        if variable == KEYPROVIDER_VARIABLE and file and file not in used.keyprovider_files:
            used.keyprovider_files.append(file)


def _check_program(program: str, path: str, findings: list[Finding]) -> None:
    found = shutil.which(program, path=path)
    if not found:
        where = "there is no such file" if os.path.isabs(program) else f"containerd looks in {path}"
        remedy = "install it there, or name its place as path"
        findings.append(Finding("error", "program", f"{quoted(program)} cannot be started: {where}", remedy))
        return
    output, failure = run([found, "--version"])
    if failure:
        text = f"{found} does not start: {failure}"
        findings.append(Finding("error", "program", text, "run it with --version to see why"))
    elif output.strip() != f"{PROGRAM} {__version__}":
        text = f"{found} is another program or version: {quoted(output.strip())}"
        findings.append(Finding("warning", "program", text, f"this one is {PROGRAM} {__version__}"))
    else:
        findings.append(Finding("ok", "program", f"containerd finds {found}"))
