"""Facts about the project that its publisher, or a fork, fills in. They are nowhere else in the sources."""

from __future__ import annotations

# The page of the project and its sources, where people report defects. It appears in messages and in the metadata of
# all packages. If it is "", they leave it out.
URL = ""

# The maintainer of the packages: "NAME <ADDRESS>", or "" for none.
MAINTAINER = ""
