"""One module for each key service."""
