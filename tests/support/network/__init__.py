"""Servers on the loopback interface, and certificates."""
