"""What an encrypted layer is: its payload, its annotations, its stream, its HMAC and digest."""
