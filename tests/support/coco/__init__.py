"""Peers of Confidential Containers."""
