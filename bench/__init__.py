"""Measurements: whole processes beside the reference program, and what happens inside one."""
