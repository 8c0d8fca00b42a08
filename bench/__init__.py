"""Measure whole processes: the reference program and ours in turn, and ours alone. RESULTS.md has the tables.

The modules here measure the decoder; cases.toml lists what most of them decrypt. Beside them:

- `containerd` measures pulls, and the look-up in a content store; `images` measures `image encrypt`. They are parts of
  `python -m bench`, too.
- `report` keeps the figures of all parts, and shows them in tables, in a plot and in the README.
- `fleet` loads a key server and simulates many nodes: `python -m bench.fleet`.
"""
