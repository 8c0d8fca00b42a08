"""Automatic approval of requests: its rules, the file that holds them, and the approver that applies them."""
