"""Modules that the agent imports in advance: those that every layer needs, and those that earlier layers needed."""

from __future__ import annotations

PRELOADED = (
    *("decoder.__main__", "decoder.decrypt", "decoder.keywrap.jwe", "queue"),
    *("decoder.node.containerd.contentstore", "decoder.node.containerd.storeroot"),
    *("decoder.node.containerd.strictness", "decoder.node.journal", "decoder.node.journal.failures"),
    *("decoder.agent.processes.keeping", "decoder.agent.processes.rehearsal"),
)

# A worker that had to import one of these reports it; the zygote imports it, so that later workers have it.
ON_DEMAND = (
    *("decoder.keywrap.pkcs7", "decoder.keywrap.pgp", "decoder.keywrap.pkcs11", "decoder.keywrap.keyprovider"),
    *("decoder.keywrap.deny", "decoder.provider.client.command", "tempfile"),
    *("cryptography.hazmat.primitives.serialization", "cryptography.hazmat.primitives.asymmetric.ec"),
    "cryptography.hazmat.primitives.kdf.concatkdf",
)

# These modules keep state: the directory of temporary files, and PINs that were wrong. A worker that has one of
# them serves no second layer.
ONE_LAYER = ("tempfile", "decoder.keywrap.pkcs11")
