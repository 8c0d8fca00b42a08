"""Confidential Containers: image keys that a key broker releases to attested guests (FORMATS.md §6, §8)."""
