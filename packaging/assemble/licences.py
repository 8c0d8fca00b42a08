"""The licence of everything that the packages bundle, as an SPDX expression."""

from __future__ import annotations

from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from collections.abc import Iterable

    from assemble.dependencies import Distribution

# What authors of wheels wrote where they could have written an SPDX expression.
_SPDX = {
    "Apache 2.0": "Apache-2.0",
    "Apache License 2.0": "Apache-2.0",
    "Apache Software License": "Apache-2.0",
    "MIT License": "MIT",
    "3-Clause BSD License": "BSD-3-Clause",
    "Mozilla Public License 2.0 (MPL 2.0)": "MPL-2.0",
}
_EXPRESSIONS = ("Apache-2.0", "BSD-2-Clause", "BSD-3-Clause", "ISC", "MIT", "MPL-2.0")
# Read in the licence files of these wheels, since their metadata says less, or leaves out what is linked in.
_READ = {
    "isodate": "BSD-3-Clause",
    "pyasn1-modules": "BSD-2-Clause",
    "pysequoia": "Apache-2.0 AND LGPL-2.0-or-later",  # sequoia-openpgp is linked into it
    "python-dateutil": "Apache-2.0 AND BSD-3-Clause",
}
# Debian's source packages that parts of the interpreter come from.
_DEBIAN = {
    "bzip2": "bzip2-1.0.6",
    "expat": "MIT",
    "openssl": "Apache-2.0",
    "python3.11": "Python-2.0.1",
    "xz-utils": "LicenseRef-PublicDomain",
    "zlib": "Zlib",
}


def of_wheel(item: Distribution) -> str:
    """Return the licence of a wheel.

    Raises:
        SystemExit: neither its metadata nor the tables here have one.
    """
    classifiers = [text.rpartition(":: ")[2] for text in item.metadata.get("classifier", []) if "License ::" in text]
    stated = [item.metadata.get("license") or "", *classifiers]
    name = item.name.lower().replace("_", "-")
    found: list[str | None] = [
        _READ.get(name),
        item.metadata.get("license_expression"),
        *(text if text in _EXPRESSIONS else _SPDX.get(text) for text in stated),
    ]
    licence = next(filter(None, found), None)
    if licence is None:
        raise SystemExit(f"the licence of {item.name} {item.version} is not known: add it to {__file__}")
    return licence


def of_debian(source: str) -> str:
    """Return the licence of a source package of Debian.

    Raises:
        SystemExit: it is not in the table here.
    """
    if source not in _DEBIAN:
        raise SystemExit(f"the licence of Debian's {source} is not known: add it to {__file__}")
    return _DEBIAN[source]


def is_lesser_gpl(licence: str) -> bool:
    """Whether a licence asks that the source code comes along."""
    return "LGPL" in licence


def joined(licences: Iterable[str]) -> str:
    """Join licences to the one of a package that contains them all."""
    parts = {part for licence in licences for part in licence.split(" AND ")}
    return " AND ".join(f"({part})" if " OR " in part else part for part in sorted(parts))
