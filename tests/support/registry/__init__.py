"""Registries, and skopeo."""
