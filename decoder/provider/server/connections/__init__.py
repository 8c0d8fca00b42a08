"""The connections of a server: where it listens, TLS with clients, and bounds."""
