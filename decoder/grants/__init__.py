"""Grants: keys of images, handed out through a registry that is trusted for availability alone.

A repository has small OCI artifacts. For each image that was encrypted so there is one *sealed key* for its owners;
for each node that wants it one *request*, in a repository of its own, and one *grant* or *tombstone*. The section
Format of docs/grants.md has their content.

    keys        identities, signatures, and the key of an owner or node
    statements  what is signed, in both directions
    artifacts   where it is kept: tags and manifests
    sealing     `image encrypt`
    node        the keyprovider `grants`
    owner       `ctd-decoder grants list|approve|deny|revoke|log`
    rules       which certificates a policy accepts
    approver    `ctd-decoder grants approver`
"""
