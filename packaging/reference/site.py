"""A hook of mkdocs: pages that are made from the code, and files that stand outside docs/."""

from __future__ import annotations

import posixpath
import re
from pathlib import Path
from typing import TYPE_CHECKING, Any

from mkdocs.structure.files import File

from reference import markdown as options

if TYPE_CHECKING:
    from mkdocs.structure.files import Files

ROOT = Path(__file__).parent.parent.parent
_API = "# decoder.api\n\n::: decoder.api\n"
_OUTSIDE = "project/"  # where a file that is not below docs/ stands on the site
_LINK = re.compile(r"(\]\()([^)#\s]+)((?:#[^)\s]*)?\))")


def on_files(files: Files, config: Any) -> Files:
    """Add the generated pages, the documents beside docs/, and the files that they link to."""
    files.append(File.generated(config, "reference/options.md", content=options.options_page()))
    files.append(File.generated(config, "reference/api.md", content=_API))
    waiting = list(ROOT.glob("*.md"))
    waiting += [target for page in ROOT.glob("docs/*.md") for target in _targets(page)]
    added: set[Path] = set()
    while waiting:
        path = waiting.pop()
        if path in added or path.is_relative_to(ROOT / "docs") or not path.is_file():
            continue
        added.add(path)
        files.append(File.generated(config, _uri(path), content=path.read_bytes()))
        if path.suffix == ".md":
            waiting += _targets(path)
    return files


def on_page_markdown(markdown: str, page: Any, **_: object) -> str:
    """Rewrite the links of a page to where the files are on the site."""
    uri = page.file.src_uri
    source = ROOT / uri.removeprefix(_OUTSIDE) if uri.startswith(_OUTSIDE) else ROOT / "docs" / uri

    def moved(found: re.Match[str]) -> str:
        target = (source.parent / found[2]).resolve()
        if ":" in found[2] or not target.exists():
            return found[0]
        return f"{found[1]}{posixpath.relpath(_uri(target), posixpath.dirname(uri))}{found[3]}"

    return _LINK.sub(moved, markdown)


def _uri(path: Path) -> str:
    """Return where a file of the repository stands on the site."""
    if path.is_dir():
        path /= "README.md"
    docs = ROOT / "docs"
    return str(path.relative_to(docs)) if path.is_relative_to(docs) else _OUTSIDE + str(path.relative_to(ROOT))


def _targets(page: Path) -> list[Path]:
    """List the files in the repository that a document links to."""
    links = [found[2] for found in _LINK.finditer(page.read_text()) if ":" not in found[2]]
    return [(page.parent / link).resolve() for link in links]
