"""Read what `image layerinfo` prints, for its tests."""

from __future__ import annotations

from tests.support.image.command import done


def names_of(place: str, *options: str) -> list[str]:
    (first, *_) = done("layerinfo", place, "--json", *options).value["layers"]
    return [f"{each['scheme']}: {each['name']}" for each in first["recipients"]]
