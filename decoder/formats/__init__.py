"""Bytes without meaning: JSON and base64 as Go writes them, protobuf, and the messages of containerd."""
