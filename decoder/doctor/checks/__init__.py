"""The checks of `ctd-decoder doctor`: one module per subject, each with a function `check`."""
