"""grpcio, imported when it is needed and without its own log output."""

from __future__ import annotations

import os
from importlib import import_module
from typing import Any

_VERBOSITY = "GRPC_VERBOSITY"


def import_grpc() -> Any:
    """Import grpcio so that it logs nothing to standard error, unless the operator has set $GRPC_VERBOSITY.

    Raises:
        ImportError: it is not installed.
    """
    asked_for = os.environ.get(_VERBOSITY)
    os.environ[_VERBOSITY] = asked_for or "NONE"
    try:
        return import_module("grpc")
    finally:
        if asked_for is None:
            del os.environ[_VERBOSITY]  # grpcio has read it; commands that are started later must not inherit it
