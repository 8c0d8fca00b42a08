"""How a keyprovider is reached: configuration, commands, gRPC, ttrpc."""
