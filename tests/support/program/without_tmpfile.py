"""Run a program as on a file system without unnamed files: `without_tmpfile.py ERRNO PROGRAM [ARGUMENT…]`.

A seccomp filter answers open(2) with O_TMPFILE as the kernel does for NFS or FUSE; libseccomp comes with runc and apt.
"""

from __future__ import annotations

import ctypes
import os
import sys

_ALLOW, _ERRNO, _MASKED_EQUAL = 0x7FFF0000, 0x00050000, 7  # seccomp.h
_FLAG = os.O_TMPFILE & ~os.O_DIRECTORY


class _Comparison(ctypes.Structure):
    """struct scmp_arg_cmp."""

    _fields_ = (
        ("argument", ctypes.c_uint),
        ("operation", ctypes.c_int),
        ("mask", ctypes.c_uint64),
        ("value", ctypes.c_uint64),
    )


def refuse_unnamed_files(error: int) -> None:
    library = ctypes.CDLL("libseccomp.so.2")
    library.seccomp_init.restype = ctypes.c_void_p
    context = ctypes.c_void_p(library.seccomp_init(_ALLOW))
    call = library.seccomp_syscall_resolve_name(b"openat")
    comparison = _Comparison(2, _MASKED_EQUAL, _FLAG, _FLAG)
    assert library.seccomp_rule_add_array(context, _ERRNO | error, call, 1, ctypes.byref(comparison)) == 0
    assert library.seccomp_load(context) == 0


def main() -> None:
    error = int(sys.argv[1])
    answer: int | None = None
    refuse_unnamed_files(error)
    try:
        os.open(".", os.O_TMPFILE | os.O_RDWR)
    except OSError as refusal:
        answer = refusal.errno
    assert answer == error
    os.execv(sys.argv[2], sys.argv[2:])


if __name__ == "__main__":
    main()
