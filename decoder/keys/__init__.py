"""Private keys: where they are found, how files are read, and the ring that holds them."""
