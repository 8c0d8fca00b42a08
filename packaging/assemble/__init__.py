"""Builds the packages: what packaging/build starts."""
