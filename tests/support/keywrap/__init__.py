"""Layers, and what wraps their keys."""
