"""The clients of a server: their identity, what they may do, and how often."""
