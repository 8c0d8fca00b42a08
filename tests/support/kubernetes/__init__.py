"""Kubernetes: manifests, and servers of its API."""
