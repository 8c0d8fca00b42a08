"""Private keys: the directory and the files that hold them, and the keyring that collects them."""
