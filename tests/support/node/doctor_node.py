"""Nodes of which `ctd-decoder doctor` sees one thing, whatever containerd runs on this machine."""

from __future__ import annotations

import json
from typing import TYPE_CHECKING

from decoder.arguments import Arguments
from decoder.doctor.checks import keyproviders
from decoder.doctor.host import Host, Processor

if TYPE_CHECKING:
    from pathlib import Path


NO_CONTAINERD = "/nonexistent/config.toml"  # no containerd runs with it; one of another test would be found otherwise


class KeysNode(Host):
    """A node with one keys directory, and no keyprovider."""

    def __init__(self, directory: Path) -> None:
        super().__init__(NO_CONTAINERD)
        self.keys_directories = [str(directory)]
        self.keyprovider_files = {}


class Node(Host):
    """A node whose one stream processor names one configuration of keyproviders."""

    def __init__(self, file: Path) -> None:
        super().__init__(NO_CONTAINERD)
        self.processors = {"x": Processor({}, Arguments(keyprovider_config=str(file)), "")}


def examine(tmp_path: Path, provider: str, **options: object) -> tuple[str, str]:
    """Check one provider, and return level and text."""
    file = tmp_path / "providers.conf"
    entry = {"native": provider, **{name.replace("_", "-"): value for name, value in options.items()}}
    file.write_text(json.dumps({"key-providers": {"tested": entry}}))
    file.chmod(0o600)
    (finding,) = [each for each in keyproviders.check(Node(file)) if each.subject == "keyprovider tested"]
    return finding.level, finding.text
