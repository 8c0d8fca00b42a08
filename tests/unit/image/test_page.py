"""The page about images: its commands run, and its JSON is what the program prints."""

from __future__ import annotations

import json
import re
import shlex
from typing import TYPE_CHECKING, Any

from tests.support.image.command import done
from tests.support.program.processes import ROOT

if TYPE_CHECKING:
    from pathlib import Path

    import pytest

    from tests.support.image.images import Layout

PAGE = (ROOT / "docs" / "images.md").read_text()
JSON = {
    tuple(re.findall(r"`(\w+)`", verbs)): json.loads(text)
    for verbs, text in re.findall(r"^(`[^\n]*):\n\n```json\n(.*?)```", PAGE, re.MULTILINE | re.DOTALL)
}


def keys_of(value: Any) -> Any:
    """Return the names of members, without their values."""
    if isinstance(value, dict):
        return {name: keys_of(item) for name, item in value.items()}
    return keys_of(value[0]) if isinstance(value, list) and value and isinstance(value[0], dict) else None


def run_line(line: str, *options: str) -> str:
    program, room, *arguments = shlex.split(line)
    assert (program, room) == ("ctd-decoder", "image")
    return done(*arguments, *options).output


def test_commands_run_and_json_is_as_documented(small: Layout, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    small.directory.rename(tmp_path / "app")
    block, _ = re.findall(r"^```sh\n(.*?)```", PAGE, re.MULTILINE | re.DOTALL)
    lines = block.splitlines()
    assert len(lines) > 5
    seen = set()
    for line in lines:
        verb = line.split()[2]
        printed = json.loads(run_line(line, "--json"))
        (documented,) = (example for verbs, example in JSON.items() if verb in verbs)
        assert keys_of(printed) == keys_of(documented), verb
        seen.add(verb)
    assert seen == {verb for verbs in JSON for verb in verbs}
    assert (tmp_path / "plain.tar").exists()
