"""The machine: containerd, the journal, descriptors, sockets, and how a failing process ends."""
