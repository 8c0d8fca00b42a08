"""Confidential Containers: image keys that a key broker releases to attested guests (docs/formats.md §6, §8)."""
