"""The metadata that hatchling takes from decoder/project.py: URLs and the people."""

from __future__ import annotations

import runpy
from email.utils import parseaddr
from pathlib import Path
from typing import Any

from hatchling.metadata.plugin.interface import MetadataHookInterface


class ProjectMetadata(MetadataHookInterface):
    """Fill `urls` and `authors`; what is empty is left out."""

    def update(self, metadata: dict[str, Any]) -> None:
        """Add to the metadata of pyproject.toml."""
        project = runpy.run_path(str(Path(self.root) / "decoder/project.py"))
        name, address = parseaddr(project["MAINTAINER"])
        metadata["authors"] = [{"name": name or "The authors of ctd-decoder"} | ({"email": address} if address else {})]
        if url := project["URL"]:
            metadata["urls"] = {"Homepage": url, "Source": url, "Issues": f"{url.rstrip('/')}/issues"}
