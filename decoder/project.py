"""Facts about the project that whoever publishes it fills in."""

from __future__ import annotations

# Where people report defects and find the sources, for messages and package metadata. "" while there is no such page.
URL = ""
