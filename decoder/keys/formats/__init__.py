"""The formats of private keys: PEM, PKCS#8, PKCS#12, JWK."""
