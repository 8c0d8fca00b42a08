"""Images in other programs: docker's daemon, and the storage of podman and skopeo; read-only."""
