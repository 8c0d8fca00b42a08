"""The connections of a server: listening sockets, TLS with clients, and bounds."""
