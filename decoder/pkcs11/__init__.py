"""Keys on PKCS#11 tokens: URIs, key files, which modules are allowed, and the work on the token."""
