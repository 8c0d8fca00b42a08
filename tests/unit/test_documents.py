"""The documents: what they point to exists, and the README stays short."""

import re
import tomllib
from pathlib import Path

import pytest

ROOT = Path(__file__).parent.parent.parent
DOCUMENTS = sorted([*ROOT.glob("*.md"), *ROOT.glob("docs/**/*.md"), *ROOT.glob("packaging/**/*.md")])
README_WORDS = 1400
_SOURCES = [path for folder in ("decoder", "packaging", "tests") for path in (ROOT / folder).rglob("*.py")]


def headings(text: str) -> list[str]:
    """List the headings of a document that are not in a block of code."""
    plain = re.sub(r"^(```|~~~).*?^\1", "", text, flags=re.MULTILINE | re.DOTALL)
    return re.findall(r"^#+ +(.*?) *$", plain, flags=re.MULTILINE)


def anchor(heading: str) -> str:
    """Return the anchor of a heading, as GitHub and mkdocs make it."""
    return re.sub(r"[^\w\- ]", "", heading.lower()).replace(" ", "-")


def test_readme_has_one_screen_and_not_many() -> None:
    assert len((ROOT / "README.md").read_text().split()) <= README_WORDS


def test_readme_has_the_command_that_shows_failures() -> None:
    assert re.search(r"^journalctl -t ctd-decoder\b", (ROOT / "README.md").read_text(), re.MULTILINE)


@pytest.mark.parametrize("document", DOCUMENTS, ids=lambda path: str(path.relative_to(ROOT)))
def test_links_point_to_files_and_headings_that_exist(document: Path) -> None:
    wrong = []
    for target in re.findall(r"\]\(([^)\s]+)\)", document.read_text()):
        if target.startswith(("https:", "mailto:")):
            continue
        name, _, fragment = target.partition("#")
        path = (document.parent / name).resolve() if name else document
        path = path / "README.md" if path.is_dir() else path  # the page that the site shows for it
        is_hidden = re.search(r"(^|/)\.\w", name)  # the site leaves such files out
        if is_hidden or not path.exists() or (fragment and fragment not in map(anchor, headings(path.read_text()))):
            wrong.append(target)
    assert not wrong


def test_sections_of_the_wire_formats_that_the_code_names_exist() -> None:
    sections = {heading.partition(".")[0] for heading in headings((ROOT / "docs/formats.md").read_text())}
    named = {
        (str(path.relative_to(ROOT)), section)
        for path in _SOURCES
        for reference in re.findall(r"docs/formats\.md ((?:§\d+(?:, | and )?)+)", path.read_text())
        for section in re.findall(r"\d+", reference)
    }
    assert named
    assert {item for item in named if item[1] not in sections} == set()


_TEST = re.compile(r"`(tests/[\w/.-]+\.py)(?:::(\w+))?`")


def rows(document: Path, last: str) -> list[list[str]]:
    """List the rows of the tables whose last column has a heading."""
    found: list[list[str]] = []
    is_in = False
    for line in document.read_text().splitlines():
        cells = [cell.strip() for cell in line.strip("|").split(" | ")] if line.startswith("| ") else []
        is_in = bool(cells) and (is_in or cells[-1].rstrip(" |") == last)
        if is_in and cells[-1].rstrip(" |") != last and not set(cells[0]) <= {"-"}:
            found.append(cells)
    return found


def test_paths_that_are_named_exist() -> None:
    """Documents name files and rooms, with or without their suffix."""
    folders = "decoder|docs|packaging|config|bench|tests|requirements"
    named = [(doc, path) for doc in DOCUMENTS for path in re.findall(rf"`((?:{folders})/[\w./-]+)`", doc.read_text())]
    assert len(named) > 50
    missing = [(doc.name, path) for doc, path in named if not list(ROOT.glob(f"{path.rstrip('/')}*"))]
    assert missing == []


@pytest.mark.parametrize("document", DOCUMENTS, ids=lambda path: str(path.relative_to(ROOT)))
def test_tests_that_are_named_exist(document: Path) -> None:
    wrong = []
    for path, name in _TEST.findall(document.read_text()):
        file = ROOT / path
        if not file.is_file() or (name and f"\ndef {name}(" not in file.read_text()):
            wrong.append(f"{path}::{name}")
    assert wrong == []


def test_every_threat_names_the_test_of_its_defence() -> None:
    threats = rows(ROOT / "docs/threat-model.md", "test")
    assert len(threats) > 30
    for cells in threats:
        does_nothing = re.search(r"\bnothing\b", cells[1]) is not None
        assert len(cells) == 3, cells
        assert _TEST.search(cells[2]) or (does_nothing and cells[2].rstrip(" |") == "—"), cells


def test_every_message_of_a_client_was_seen() -> None:
    messages = rows(ROOT / "docs/troubleshooting.md", "seen")
    assert len(messages) > 10
    for cells in messages:
        assert _TEST.match(cells[-1]) or re.match(r"by hand, [a-z]+ \d+\.\d+", cells[-1]), cells


def test_the_rooms_of_the_architecture_are_those_of_the_code() -> None:
    """The table has every layer that import-linter knows, itself or the room that it is in, and no other room."""
    named = {
        name.replace("/", ".")
        for cells in rows(ROOT / "docs/architecture.md", "content")
        for name in re.findall(r"`([\w/]+)`", cells[0])
    }
    contracts = tomllib.loads((ROOT / "pyproject.toml").read_text())["tool"]["importlinter"]["contracts"]
    layers = {layer.removeprefix("decoder.") for line in contracts[0]["layers"] for layer in line.split(" : ")}
    assert len(named) > 20
    assert {layer for layer in layers if not {layer, layer.partition(".")[0]} & named} == set()
    missing = {name for name in named if not list((ROOT / "decoder").glob(f"{name.replace('.', '/')}*"))}
    assert missing == set()
