"""Images that other programs have: docker's daemon, and the storage of podman and skopeo; to read only."""
