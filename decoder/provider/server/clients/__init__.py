"""The clients of a server: who they are, what they may do, and how often."""
