"""Automatic approval of requests: the rules, their file, and the approver that applies them."""
