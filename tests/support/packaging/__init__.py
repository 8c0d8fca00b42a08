"""Packages, and machines to install them on."""
