"""Keyproviders: clients and servers."""
