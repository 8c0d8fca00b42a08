"""Keys, key rings and tokens."""
