"""Unpack packages of Debian 12, without installing them."""

from __future__ import annotations

from typing import TYPE_CHECKING

from assemble.places import CACHE, PACKAGING, run

if TYPE_CHECKING:
    from pathlib import Path


def unpack(name: str, architecture: str, packages: tuple[str, ...]) -> Path:
    """Unpack packages at their first use.

    Args:
        name: the purpose of the packages.
        architecture: amd64 or arm64.
        packages: Debian's names.

    Returns:
        The directory that has them; its file `versions` says which they are.

    Raises:
        subprocess.CalledProcessError: they cannot be downloaded.
    """
    run(PACKAGING / "fetch-debian", name, architecture, *packages)
    return CACHE / f"{name}-{architecture}"


def files(name: str, architecture: str) -> list[Path]:
    """List the packages themselves that `unpack` unpacked."""
    return sorted((CACHE / f"apt-{architecture}/debs-{name}").glob("*.deb"))
