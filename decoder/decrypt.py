"""The story of one layer: payload, keys, unwrap, stream."""

from __future__ import annotations

from typing import TYPE_CHECKING

from decoder import keywrap, layer, stream
from decoder.keys import Keys
from decoder.keysdirectory import add_directory
from decoder.payload import parse_payload

if TYPE_CHECKING:
    from collections.abc import Callable


def decrypt_layer(
    payload_bytes: bytes,
    source: stream.Source,
    sink: stream.Sink,
    buffer_bytes: int,
    keys_directory: str | None = None,
    open_spool: Callable[[], stream.Spool] | None = None,
) -> list[str]:
    """Decrypt one layer as containerd asks for it.

    Args:
        payload_bytes: what containerd wrote to descriptor 3, at most PAYLOAD_BYTES.
        source: the ciphertext, read to its end once a key has opened the layer.
        sink: takes the plaintext; `stream` states what it gets before the verdict.
        buffer_bytes: how much is read and deciphered at a time, in bytes.
        keys_directory: holds keys besides those of the payload; it need not exist.
        open_spool: gives the file to keep the ciphertext in until the whole layer is verified; without
            it plaintext is released as it comes, but for its tail.

    Returns:
        What the operator should know although the layer was decrypted: a line for each file or payload
        entry that was passed over because it holds no usable key.

    Raises:
        PayloadError: the payload is not what containerd sends, or not for an encrypted layer.
        NoKeyError: no key opens the layer.
        LayerError: the layer, or what its annotations say, is damaged or not authentic.
        StreamError: reading, writing or spooling failed.
    """
    payload = parse_payload(payload_bytes)
    annotations = payload.descriptor.annotations
    layer.check_media_type(payload.descriptor.media_type)
    public = layer.parse_public_options(annotations)

    keys = Keys()
    keys.add_parameters(payload.parameters)
    if keys_directory:
        add_directory(keys, keys_directory)

    key = layer.layer_key(public, keywrap.unwrap_any(annotations, keys))

    if open_spool:
        stream.decrypt_verified(source, sink, key, open_spool(), buffer_bytes)
    else:
        stream.decrypt(source, sink, key, buffer_bytes)
    return keys.warnings
