"""The manifests, rendered with kustomize."""

from __future__ import annotations

import os
import subprocess
from pathlib import Path
from typing import Any

import yaml

from tests.support.program.processes import ROOT

MANIFESTS = ROOT / "packaging/kubernetes"


_KUSTOMIZE = ROOT / ".cache/kustomize/usr/bin/kustomize"


_SECONDS = 300


Objects = list[dict[str, Any]]


def run(*command: str | Path, expect: int = 0) -> str:
    result = subprocess.run(command, capture_output=True, text=True, timeout=_SECONDS, check=False)
    assert result.returncode == expect, result.stdout + result.stderr
    return result.stdout + result.stderr


def render(directory: Path, base: str, components: tuple[str, ...] = (), **more: Any) -> Objects:
    """Render what an operator's own kustomization makes of a base."""
    directory.mkdir(exist_ok=True)
    kustomization = {
        "apiVersion": "kustomize.config.k8s.io/v1beta1",
        "kind": "Kustomization",
        "resources": [os.path.relpath(MANIFESTS / base, directory.resolve())],
        "components": [os.path.relpath(MANIFESTS / name, directory.resolve()) for name in components],
        **more,
    }
    (directory / "kustomization.yaml").write_text(yaml.safe_dump(kustomization))
    return list(yaml.safe_load_all(run(_KUSTOMIZE, "build", directory)))


def pod_of(objects: Objects) -> dict[str, Any]:
    (template,) = [item["spec"]["template"] for item in objects if item["kind"] in ("DaemonSet", "Deployment")]
    pod: dict[str, Any] = template["spec"]
    return pod
