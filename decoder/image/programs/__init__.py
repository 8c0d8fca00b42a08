"""Images that other programs hold (docker's daemon, the storage of podman and skopeo), for reading only."""
