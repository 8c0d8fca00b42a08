"""What manifests and configurations of an image may take: the memory of the whole process is measured."""

from __future__ import annotations

import subprocess
import sys
from typing import TYPE_CHECKING

import pytest

from decoder import limits
from tests.support.image import layouts
from tests.support.image.command import image, oci
from tests.support.image.images import Layout
from tests.support.program.processes import MEASURE, PROGRAM, unmeasured

if TYPE_CHECKING:
    from pathlib import Path

_MANIFESTS = 400
# As many bytes as one configuration may have, in as many values as JSON may have.
_DIFF_IDS = b'"rootfs":{"diff_ids":[%s]}' % b",".join(b'"%s"' % (b"a" * 900) for _ in range(limits.IMAGE_LAYERS))
_LISTS = b'"x":[%s[]]' % (b"[]," * (limits.JSON_VALUES // 2 - 200))
_MEMBERS = b",".join(b'"%x":{}' % number for number in range(limits.JSON_VALUES // 2 - 200))


def peak_of(*arguments: str) -> tuple[bool, int]:
    """Run `ctd-decoder image`, and return whether it succeeded, and the most memory that it used, in bytes."""
    command = [sys.executable, "-ISc", MEASURE, PROGRAM, "image", *arguments]
    ended = subprocess.run(command, capture_output=True, text=True, env=unmeasured(), timeout=120, check=False)
    return ended.returncode == 0, int(ended.stderr.splitlines()[-1]) * limits.KIB


def write(directory: Path, manifests: int, config: bytes, *, shared: bool) -> Layout:
    """Write an image of many manifests, whose configurations are the same one or have the same content."""
    layout = Layout(directory)
    value = layout.read_json(layouts.add_image(layout, "amd64", [layouts.tar("only")]))
    texts = [
        b'{"architecture":"a%d","os":"linux",%s}' % (number, config) for number in range(1 if shared else manifests)
    ]
    configs = [layout.add(text, layouts.CONFIG) for text in texts]
    descriptors = []
    for number in range(manifests):
        value["config"] = configs[0 if shared else number]
        value["annotations"] = {"number": str(number)}
        descriptors.append(layout.add(layouts.to_json(value), layouts.MANIFEST))
    return layouts.publish(layout, layouts.add_index(layout, *descriptors))


@pytest.mark.parametrize("shared", [True, False], ids=["one for all", "one each"])
def test_configurations(shared: bool, tmp_path: Path) -> None:
    """A layout of 4 MB is no 1.6 GB in memory: a configuration is parsed once, and they are counted together."""
    layout = write(tmp_path / "layout", _MANIFESTS if shared else 5, _DIFF_IDS, shared=shared)
    succeeded, peak = peak_of("layerinfo", oci(layout))
    assert succeeded == shared  # five of them are more than IMAGE_MANIFESTS_BYTES
    assert peak < 96 * limits.MIB


@pytest.mark.parametrize("content", [_LISTS, _MEMBERS], ids=["lists", "members"])
def test_manifests_of_many_values(content: bytes, tmp_path: Path) -> None:
    """As many bytes of manifests as are accepted, made of what takes most memory: their values are counted."""
    layout = Layout(tmp_path / "layout")
    value = layouts.to_json(layout.read_json(layouts.add_image(layout, "amd64", [layouts.tar("only")])))
    count = limits.IMAGE_MANIFESTS_BYTES // (len(content) + 2 * limits.KIB)
    manifests = [value[:-1] + b',"number":%d,' % number + content + b"}" for number in range(count)]
    descriptors = [layout.add(each, layouts.MANIFEST) for each in manifests]
    layouts.publish(layout, layouts.add_index(layout, *descriptors))
    succeeded, peak = peak_of("layerinfo", oci(layout))
    assert not succeeded
    assert peak < 128 * limits.MIB
    assert "values" in image("layerinfo", oci(layout)).errors
