"""OpenPGP (RFC 9580): packets, secret keys, session keys, messages, and keyrings of certificates."""
