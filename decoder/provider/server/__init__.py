"""`ctd-decoder keyprovider`: a provider as a command or a server."""
