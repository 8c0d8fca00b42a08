"""Clients of keyproviders: the configuration, commands, gRPC and ttrpc."""
