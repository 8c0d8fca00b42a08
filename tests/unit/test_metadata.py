"""The metadata of the project in package indexes, packages and documents, which comes from one file."""

from __future__ import annotations

import re
import tomllib
from importlib import metadata
from pathlib import Path

import pytest

from decoder import __version__, project

ROOT = Path(__file__).parent.parent.parent
_FOLDERS = ("decoder", "docs", "packaging", "config")
_SUFFIXES = (".py", ".md", ".toml", ".yaml", ".yml")
PROJECT = tomllib.loads((ROOT / "pyproject.toml").read_text())["project"]


def test_version_stands_in_one_place_and_in_the_changelog() -> None:
    assert re.search(rf"^## \[{re.escape(__version__)}\]", (ROOT / "CHANGELOG.md").read_text(), re.MULTILINE)
    assert "version" in PROJECT["dynamic"]
    holding = {str(path.relative_to(ROOT)) for path in _sources() if __version__ in path.read_text(errors="replace")}
    assert holding <= {"decoder/__init__.py", "CHANGELOG.md", "docs/compatibility.md"}


def _sources() -> list[Path]:
    """List the files that could name the version; the lock files name those of other projects."""
    files = [*ROOT.glob("*.*"), *(path for folder in _FOLDERS for path in (ROOT / folder).rglob("*.*"))]
    return [path for path in files if path.suffix in _SUFFIXES]


def test_url_and_maintainer_stand_in_one_file() -> None:
    assert {"urls", "authors"} <= set(PROJECT["dynamic"])
    assert not {"urls", "authors", "maintainers"} & set(PROJECT)
    for description in ("nfpm.yaml", "nfpm-providers.yaml"):
        text = (ROOT / "packaging" / description).read_text()
        values = re.findall(r"^ *(?:maintainer|homepage|Vcs-\w+): *(.*)$", text, re.MULTILINE)
        assert len(values) == 4
        assert all(re.fullmatch(r"\$\{\w+\}", value) for value in values)
    assert not re.search(r"^(site_url|repo_url):", (ROOT / "mkdocs.yml").read_text(), re.MULTILINE)


def test_project_is_filled_or_left_out() -> None:
    assert project.URL == "" or project.URL.startswith("https://")
    assert project.MAINTAINER == "" or re.fullmatch(r"[^<>]+ <[^<>@]+@[^<>@]+>", project.MAINTAINER)


def test_all_is_every_extra() -> None:
    extras = dict(PROJECT["optional-dependencies"])
    (everything,) = extras.pop("all")
    assert set(everything.removeprefix("ctd-decoder[").removesuffix("]").split(",")) == set(extras)


@pytest.mark.parametrize("minor", [11, 12, 13, 14])
def test_python_versions_are_declared(minor: int) -> None:
    assert f"Programming Language :: Python :: 3.{minor}" in PROJECT["classifiers"]


def test_rpm_lists_every_manual() -> None:
    description = (ROOT / "packaging/nfpm.yaml").read_text()
    for page in (ROOT / "packaging/man").iterdir():
        assert f"dst: /usr/share/man/man{page.suffix[1:]}/{page.name}.gz\n    type: doc" in description


def test_every_library_of_an_extra_is_imported() -> None:
    """An extra asks for what the program imports, and not for a larger library around that."""
    sources = "\n".join(path.read_text() for path in (ROOT / "decoder").rglob("*.py"))
    requirements = [text for texts in PROJECT["optional-dependencies"].values() for text in texts]
    wanted = {_normalized(re.split(r"[\[<>=~;]", text)[0]) for text in requirements}
    wanted -= {"ctd-decoder", "bcrypt"}  # cryptography imports bcrypt
    modules = set(
        re.findall(r"(?m)^\s*(?:import|from) (\w+)", sources) + re.findall(r'import_module\(f?"(\w+)', sources)
    )
    distributions = metadata.packages_distributions()
    imported = {_normalized(name) for module in modules for name in distributions.get(module, ())}
    assert wanted - imported == set()


def _normalized(name: str) -> str:
    return re.sub(r"[-_.]+", "-", name).lower()
