"""Machines that run containerd."""
