"""Encrypted images: encrypt, decrypt, list and check them, in every transport."""
