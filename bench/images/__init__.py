"""Measure `image encrypt`, which works on whole images."""
