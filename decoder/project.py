"""Facts about the project that its publisher, or a fork, fills in. Nothing else in the sources holds them."""

from __future__ import annotations

# The page of the project and of its sources, where people report defects. It is used in messages and in the metadata of
# all packages. "" while there is no such page; it is then left out.
URL = ""

# Who answers for the packages: "NAME <ADDRESS>". "" while there is nobody.
MAINTAINER = ""
