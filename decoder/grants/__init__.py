"""Grants: keys of images, distributed through a registry that is trusted only for availability.

The keys are in small OCI artifacts. Each image that is encrypted for grants has one *sealed key*, for its owners. Each
node that wants the key has one *request*, in a separate repository, and one *grant* or *tombstone*. The section Format
of docs/grants.md describes their content.

    keys        identities, signatures, and the key of an owner or node
    statements  the signed content of artifacts, built and parsed
    artifacts   their storage: tags and manifests
    sealing     `image encrypt`
    node        the keyprovider `grants`
    owner       `ctd-decoder grants list|approve|deny|revoke|log`
    rules       which certificates a policy accepts
    approver    `ctd-decoder grants approver`
"""
