"""The machine: containerd and its content store, the journal, and how a failing process ends."""
