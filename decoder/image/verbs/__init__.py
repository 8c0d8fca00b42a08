"""The work of `ctd-decoder image`: one module for each verb, and what several of them need."""
