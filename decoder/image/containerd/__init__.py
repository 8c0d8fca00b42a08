"""Images in containerd's store."""
