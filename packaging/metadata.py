"""The metadata that hatchling takes from decoder/project.py (URLs and the people), and the name of the script."""

from __future__ import annotations

import os
import runpy
from email.utils import parseaddr
from pathlib import Path
from typing import Any

from hatchling.metadata.plugin.interface import MetadataHookInterface


class ProjectMetadata(MetadataHookInterface):
    """Fill `urls`, `authors` and `scripts`; what is empty is left out."""

    def update(self, metadata: dict[str, Any]) -> None:
        """Add to the metadata of pyproject.toml."""
        project = runpy.run_path(str(Path(self.root) / "decoder/project.py"))
        name, address = parseaddr(project["MAINTAINER"])
        metadata["authors"] = [{"name": name or "The authors of ctd-decoder"} | ({"email": address} if address else {})]
        if url := project["URL"]:
            metadata["urls"] = {"Homepage": url, "Source": url, "Issues": f"{url.rstrip('/')}/issues"}
        has_client = bool(os.environ.get("CTD_DECODER_WHEEL_MACHINE"))  # then packaging/wheel.py adds its own scripts
        metadata["scripts"] = {} if has_client else {"ctd-decoder": "decoder.isolated:main"}
