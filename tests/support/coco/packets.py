"""Packets of Confidential Containers."""

from __future__ import annotations

from decoder.provider.services.coco.packet import Packet, parse_packet


def broker_packet(annotation: bytes) -> Packet:
    """Parse a packet whose key a broker has."""
    packet = parse_packet(annotation)
    assert isinstance(packet, Packet)
    return packet
