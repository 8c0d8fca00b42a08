"""The modules that are built into the launcher, so that a layer's start need not find, open and read their files.

Python itself starts this way: it looks for a module in a table of marshalled code (`PyImport_FrozenModules`) before it
looks on the disk. The files stay in the packages all the same, for what is imported from there.
"""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path
from typing import NamedTuple

# With `.*`, a package and everything in it. What is missing here is still found on the disk, only later:
# tests/system/packaging/test_startup.py fails if a layer opens a file that it could have had from the launcher.
_STANDARD = (
    *("__future__", "keyword", "operator", "reprlib", "collections.*", "types", "functools", "contextlib", "enum"),
    *("re.*", "copyreg", "warnings", "typing", "json.*", "bisect", "random", "importlib"),
)
_SITE = "site-packages"
# Not `decoder` itself: an agent ends when the file of that module is replaced, for that is what an upgrade does.
_INSTALLED = (
    *(
        "decoder.__main__",
        "decoder.arguments",
        "decoder.decrypt",
        "decoder.errors",
        "decoder.leantyping",
        "decoder.limits",
        "decoder.record",
    ),
    *("decoder.formats.*", "decoder.keys.*", "decoder.keywrap.*", "decoder.layer.*", "decoder.node.*"),
    *("cryptography", "cryptography.__about__", "cryptography.exceptions", "cryptography.utils"),
    "cryptography.hazmat.*",
)
_HEADER_BYTES = 16  # of a .pyc file, before the marshalled code (PEP 552)


class _Module(NamedTuple):
    name: str
    file: Path
    is_package: bool
    place: str  # below the directory of the standard library, without the suffix; `<` marks a package


def write_table(library: Path, directory: Path) -> None:
    """Write the table as C source: `frozen.h`, and the code of each module.

    Args:
        library: the directory of the standard library, compiled; site-packages is in it.
        directory: the directory for the source.

    Raises:
        SystemExit: a module that is named here does not exist.
    """
    directory.mkdir(exist_ok=True)
    modules = [module for name in _STANDARD for module in _find(library, library, name)]
    modules += [module for name in _INSTALLED for module in _find(library, library / _SITE, name)]
    arrays, entries, places = [], [], []
    for number, module in enumerate(modules):
        (directory / f"{number}.bin").write_bytes(module.file.read_bytes()[_HEADER_BYTES:])
        arrays.append(f'static const unsigned char module_{number}[] = {{\n#embed "{number}.bin"\n}};')
        entries.append(f'    {{"{module.name}", module_{number}, sizeof module_{number}, {module.is_package:d}, 0}},')
        places.append(f'    {{"{module.name}", "{module.place}"}},')
    source = [
        *arrays,
        *("static const struct _frozen modules[] = {", *entries, "    {0}};"),
        *("static const struct place places[] = {", *places, "    PLACES_OF_PYTHON, {0}};\n"),
    ]
    (directory / "frozen.h").write_text("\n".join(source))


def _find(library: Path, base: Path, name: str) -> Iterator[_Module]:
    """Yield a module and, if the name ends in `.*`, what is in it."""
    name, inside, _ = name.partition(".*")
    path = base / name.replace(".", "/")
    place = str(path.relative_to(library))
    if (package := path / "__init__.pyc").exists():
        yield _Module(name, package, True, f"<{place}")
        for file in sorted(path.iterdir()) if inside else ():
            if (file / "__init__.pyc").exists():
                yield from _find(library, base, f"{name}.{file.name}.*")
            elif file.suffix == ".pyc" and file != package:
                yield from _find(library, base, f"{name}.{file.stem}")
    elif (module := path.with_suffix(".pyc")).exists():
        yield _Module(name, module, False, place)
    else:
        raise SystemExit(f"there is no module {name} to put into the launcher")
