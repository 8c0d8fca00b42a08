"""Optional libraries: the message for one that cannot be imported, and the command that installs it."""

from __future__ import annotations

import json
import os
import sys
from importlib import metadata

_DISTRIBUTION = "ctd-decoder"
_PACKAGE_DIRECTORY = "/usr/lib/ctd-decoder/"  # of the .deb and .rpm packages
_IN_THE_CORE_PACKAGE = ("agent", "image", "openssh", "pgp", "pkcs11")


def missing(extra: str, error: ImportError) -> str:
    """Describe a library that cannot be imported.

    Args:
        extra: the extra in pyproject.toml that the library belongs to.
        error: what the import raised.

    Returns:
        The module, the reason, and the command that installs the extra in the way that this program was installed.
    """
    name = error.name or "unknown"
    what = f"the Python module {name} is not installed"
    if not isinstance(error, ModuleNotFoundError):
        what = f"the Python module {name} cannot be loaded ({ascii(str(error))[1:-1]})"
    return f"{what}: {remedy(extra)}"


def remedy(extra: str, file: str = __file__) -> str:
    """Return the command that installs an extra.

    Args:
        extra: the extra in pyproject.toml.
        file: the path of this module, which shows how the program was installed.
    """
    if _PACKAGE_DIRECTORY in file:
        package = _DISTRIBUTION if extra in _IN_THE_CORE_PACKAGE else f"{_DISTRIBUTION}-providers"
        return f"install the package {package}"
    # The name on a package index may be somebody else's: the command names the wheel or checkout that is in use.
    wanted = f"'{_DISTRIBUTION}[{extra}] @ {_source()}'"
    if f"{os.sep}uv{os.sep}tools{os.sep}" in file:
        return f"uv tool install --force {wanted}"
    if f"{os.sep}pipx{os.sep}" in file:
        return f"pipx install --force {wanted}"
    return f"{sys.executable} -m pip install {wanted}"


def _source() -> str:
    """Return the URL that this program was installed from, which pip and uv keep (PEP 610)."""
    try:
        text = metadata.distribution(_DISTRIBUTION).read_text("direct_url.json") or "{}"
        url = json.loads(text).get("url")
    except (metadata.PackageNotFoundError, ValueError, AttributeError):
        url = None
    return url if isinstance(url, str) and url else "file:///PATH/OF/THE/WHEEL"
