"""Images in files: OCI layouts and archives."""
