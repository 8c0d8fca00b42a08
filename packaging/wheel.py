"""Add to a platform wheel the agent's client, which is then `ctd-decoder`.

$CTD_DECODER_WHEEL_MACHINE (x86_64 or aarch64) asks for a platform wheel; packaging/wheels sets it. The client is built
by ziglang from packaging/client, static, so one wheel is for every Linux of that machine.
"""

from __future__ import annotations

import os
import subprocess
import sys
from pathlib import Path
from typing import Any

from hatchling.builders.hooks.plugin.interface import BuildHookInterface

MACHINE_VARIABLE = "CTD_DECODER_WHEEL_MACHINE"
# The program's script beside the client, which starts it; pip's own scripts import re: 11 million instructions more.
SCRIPT = "ctd-decoder-python"
_PLATFORMS = ("manylinux_2_17_{0}", "manylinux2014_{0}", "musllinux_1_1_{0}")


class Client(BuildHookInterface[Any]):
    """Put the client into a platform wheel."""

    def initialize(self, version: str, build_data: dict[str, Any]) -> None:
        """Build the client, and name the platforms; a wheel for all machines is left as it is."""
        machine = os.environ.get(MACHINE_VARIABLE, "")
        if self.target_name != "wheel" or not machine or version == "editable":
            return
        client = Path(self.root) / "build" / machine / "ctd-decoder"
        client.parent.mkdir(parents=True, exist_ok=True)
        sources = sorted(map(str, (Path(self.root) / "packaging/client").glob("*.c")))
        options = ["-target", f"{machine}-linux-musl", "-Os", "-static", "-s", f'-DSCRIPT="{SCRIPT}"']
        subprocess.run([sys.executable, "-m", "ziglang", "cc", *options, *sources, "-o", str(client)], check=True)
        script = Path(self.root) / "packaging/client" / SCRIPT
        build_data["shared_scripts"] = {str(client): "ctd-decoder", str(script): SCRIPT}
        build_data["pure_python"] = False
        build_data["tag"] = f"py3-none-{'.'.join(name.format(machine) for name in _PLATFORMS)}"
