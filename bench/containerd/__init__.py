"""Measure the decoder as containerd uses it: whole pulls, and the look-up of a descriptor in a content store."""
