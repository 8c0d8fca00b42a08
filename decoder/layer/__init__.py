"""The parts of an encrypted layer: its payload, its annotations, its stream, its HMAC and its digest."""
