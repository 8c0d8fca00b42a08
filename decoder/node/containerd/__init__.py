"""containerd on this machine: its configuration, its root directory and its content store."""
