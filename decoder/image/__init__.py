"""Encrypted images: encrypt, decrypt, list and check them, wherever they are kept."""
