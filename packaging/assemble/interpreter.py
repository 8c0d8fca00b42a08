"""The interpreter: Debian's Python, linked again so that it runs with older C libraries, and its standard library."""

from __future__ import annotations

import re
import shutil
import subprocess
import sys
from pathlib import Path

from assemble import debian
from assemble.places import CACHE, GLIBC, LIBRARY, MACHINES, NATIVE, PACKAGING, PREFIX, PYTHON, run, tool

_PACKAGES = (
    *("libpython3.11-dev", "libpython3.11-stdlib", "libpython3.11-minimal", "python3.11-minimal"),
    *("libssl-dev", "zlib1g-dev", "libexpat1-dev", "libbz2-1.0", "liblzma-dev"),
)
# Left out of the standard library: what only builds, shows or tests something. Extension modules are left out by
# what they need (`_can_run`).
_LEFT_OUT = (
    *("EXTERNALLY-MANAGED", "LICENSE.txt", "sitecustomize.py", "__pycache__", "config-*", "test", "lib-dynload"),
    *("pydoc_data", "turtle.py", "distutils", "_distutils_system_mod.py", "venv", "curses", "sqlite3", "dbm", "ctypes"),
    *("__phello__", "__hello__.py", "antigravity.py", "this.py", "unittest/test"),
)
_SOURCES = ("*.py", "*.pyi", "*.pyx", "*.pxd", "*.c", "*.h", "py.typed")
_TEST_MODULES = ("_test", "_xxtestfuzz", "xxlimited", "xxsubtype")
# Libraries of extension modules, each made of Debian's static one; names of our own keep them apart from the
# libraries of the system, which a PKCS#11 module in the same process may bring along. The dependent one comes last.
_SHARED = {"libcrypto": (), "libssl": ("libcrypto",), "liblzma": ()}
_COPIED = {"libbz2": "libbz2.so.1.0"}  # its static form is for programs alone, and its shared one asks for no new glibc
PLAIN = "python3"
_SYSTEM = ("libc.so.6", "libm.so.6")
_VERSION_NODES = {"libcrypto": "OPENSSL_3.0.0", "libssl": "OPENSSL_3.0.0", "liblzma": "XZ_5.0"}


def build(architecture: str, tree: Path) -> None:
    """Put the interpreter into a tree.

    Args:
        architecture: amd64 or arm64.
        tree: the root directory of the packages' files.

    Raises:
        subprocess.CalledProcessError: a tool failed.
    """
    origin = debian.unpack("debian", architecture, _PACKAGES)
    machine = MACHINES[architecture]
    static = origin / f"usr/lib/{machine}-linux-gnu"
    (tree / PREFIX / "bin").mkdir(parents=True)
    link_program(architecture, tree / PREFIX / "bin/ctd-decoder")
    client = sorted((PACKAGING / "client").glob("*.c"))
    zig(f"{machine}-linux-musl", "-Os", "-static", *client, "-o", tree / PREFIX / "bin/client")
    link_program(architecture, tree / PREFIX / "bin" / PLAIN, plain=True)
    libraries = _link_libraries(machine, static, tree / PREFIX / "lib")
    for name, file in _COPIED.items():
        libraries[name] = f"libctd-{name.removeprefix('lib')}.so"
        copy = tree / PREFIX / "lib" / libraries[name]
        shutil.copyfile(origin / f"lib/{machine}-linux-gnu/{file}", copy)
        run(tool("patchelf"), "--set-soname", libraries[name], copy)
    source = origin / f"usr/lib/python{PYTHON}"
    shutil.copytree(source, tree / LIBRARY, ignore=lambda folder, names: _unwanted(source, folder, names))
    _copy_extensions(source / "lib-dynload", tree / LIBRARY / "lib-dynload", libraries)


def compile_all(directory: Path, tree: Path) -> None:
    """Turn modules into bytecode alone, with paths as they are once installed; half of their size are the sources."""
    python = CACHE / f"tree-{NATIVE}" / PREFIX / "bin" / PLAIN
    options: list[str | Path] = ["-b", "-q", "-f", "--invalidation-mode", "unchecked-hash", "-s", tree, "-p", "/"]
    run(python, "-BIS", "-m", "compileall", *options, directory)
    for pattern in _SOURCES:
        for path in directory.rglob(pattern):
            path.unlink()


def strip_all(directory: Path, architecture: str) -> None:
    """Strip the shared libraries in wheels, most of which come with symbols that are only for debuggers."""
    libraries = sorted(directory.rglob("*.so"))
    run(f"{MACHINES[architecture]}-linux-gnu-strip", "--strip-unneeded", *libraries)


def link_program(architecture: str, program: Path, frozen: Path | None = None, plain: bool = False) -> None:
    """Link the launcher.

    Args:
        architecture: amd64 or arm64.
        program: the file to write.
        frozen: the directory of the table of modules that it has in it; without one it has none.
        plain: make it a Python like any other, to compile modules with. No package has that.

    Raises:
        subprocess.CalledProcessError: the linker failed.
    """
    machine, origin = MACHINES[architecture], CACHE / f"debian-{architecture}"
    static = origin / f"usr/lib/{machine}-linux-gnu"
    archives = [static / f"{name}.a" for name in (f"libpython{PYTHON}", "libz", "libexpat")]
    includes = [f"-I{origin / 'usr/include'}/python{PYTHON}", f"-I{origin / 'usr/include'}"]
    table = [f"-I{frozen}", "-DFROZEN", "-std=gnu23"] if frozen else []  # C23 has #embed
    defines = [f'-DPYTHON="{PYTHON}"', *(["-DPLAIN"] if plain else [])]
    libraries = ["-lm", "-ldl", "-lpthread", "-lutil"]
    source = PACKAGING / "assemble/launcher.c"
    zig(_gnu(machine), "-O2", "-rdynamic", *defines, *includes, *table, source, *archives, *libraries, "-o", program)


def _gnu(machine: str) -> str:
    return f"{machine}-linux-gnu.{GLIBC[0]}.{GLIBC[1]}"


def zig(target: str, *arguments: str | Path) -> None:
    """Compile and link for a machine and a C library, without symbols for debuggers."""
    cache = {"ZIG_GLOBAL_CACHE_DIR": str(CACHE / "zig"), "ZIG_LOCAL_CACHE_DIR": str(CACHE / "zig")}
    run(sys.executable, "-m", "ziglang", "cc", "-target", target, "-s", *arguments, environment=cache)


def _link_libraries(machine: str, static: Path, directory: Path) -> dict[str, str]:
    """Link static libraries to shared ones.

    Returns:
        The name of each by the name under which Debian's extension modules ask for it.
    """
    directory.mkdir()
    scratch = CACHE / f"libraries-{machine}"
    scratch.mkdir(exist_ok=True)
    made: dict[str, str] = {}
    for name, needs in _SHARED.items():
        own = f"libctd-{name.removeprefix('lib')}.so"
        script = scratch / f"{name}.map"
        node = _VERSION_NODES.get(name)
        script.write_text(f"{node} {{ global: *; }};\n" if node else "{ global: *; };\n")
        archive: list[str | Path] = ["-Wl,--whole-archive", static / f"{name}.a", "-Wl,--no-whole-archive"]
        others = [directory / f"libctd-{other.removeprefix('lib')}.so" for other in needs]
        options = ["-shared", f"-Wl,-soname,{own}", f"-Wl,--version-script={script}"]
        zig(_gnu(machine), *options, *archive, *others, "-ldl", "-lpthread", "-o", directory / own)
        run(tool("patchelf"), "--set-rpath", "$ORIGIN", directory / own)
        made[name] = own
    return made


def _unwanted(source: Path, folder: str, names: list[str]) -> set[str]:
    base = Path(folder).relative_to(source)
    return {
        name for name in names if any((base / name).match(pattern) for pattern in _LEFT_OUT if _is_at(base, pattern))
    }


def _is_at(base: Path, pattern: str) -> bool:
    """Whether a pattern of _LEFT_OUT is meant for this directory: the top, but for caches and those with a slash."""
    return pattern == "__pycache__" or Path(pattern).parent == base


def _copy_extensions(source: Path, target: Path, libraries: dict[str, str]) -> None:
    target.mkdir()
    for path in sorted(source.glob("*.so")):
        needed = _needed(path)
        if path.name.startswith(_TEST_MODULES) or not _can_run(path, needed, libraries):
            continue
        copy = target / path.name
        shutil.copyfile(path, copy)
        ours = {name: libraries[name.partition(".")[0]] for name in needed if name not in _SYSTEM}
        for name, own in ours.items():
            run(tool("patchelf"), "--replace-needed", name, own, copy)
        if ours:
            run(tool("patchelf"), "--set-rpath", "$ORIGIN/../..", copy)


def _can_run(path: Path, needed: list[str], libraries: dict[str, str]) -> bool:
    """Whether all that an extension module links is in the packages, and its C library is old enough."""
    versions = re.findall(rb"GLIBC_([0-9]+)\.([0-9]+)", path.read_bytes())
    known = all(name in _SYSTEM or name.partition(".")[0] in libraries for name in needed)
    return known and all((int(major), int(minor)) <= GLIBC for major, minor in versions)


def _needed(path: Path) -> list[str]:
    result = subprocess.run([tool("patchelf"), "--print-needed", path], check=True, capture_output=True, text=True)
    return result.stdout.split()
