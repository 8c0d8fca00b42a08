"""Start the program, its agent and its client."""
