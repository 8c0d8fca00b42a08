"""Images, and `ctd-decoder image`."""
