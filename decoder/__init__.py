"""A decoder of encrypted container image layers, started by containerd as a stream processor."""

__version__ = "0.2.0"
