"""The keyring of a GnuPG installation, exported by gpg."""

from __future__ import annotations

import os
import select as polling
import subprocess
import time

from decoder import limits
from decoder.errors import KeyFileError, quoted


def gnupg_keyring(home: str | None = None, program: str = "gpg") -> bytes:
    """Export the public keys of a GnuPG home.

    Args:
        home: the directory; None for GnuPG's own choice.
        program: name or path of gpg.

    Returns:
        Binary certificates, at most PGP_KEYRING_BYTES.

    Raises:
        KeyFileError: gpg is not installed, fails, takes longer than GPG_SECONDS, or exports more than
            PGP_KEYRING_BYTES.
    """
    deadline = time.monotonic() + limits.GPG_SECONDS
    # In one word with the option, so that a directory whose name begins with a dash is not taken for an option.
    directory = [f"--homedir={os.path.abspath(home)}"] if home else []
    command = [program, "--batch", "--no-tty", "--quiet", *directory, "--export"]
    try:
        process = subprocess.Popen(  # noqa: S603  # no shell, and an absolute path is the only argument
            command, stdin=subprocess.DEVNULL, stdout=subprocess.PIPE, stderr=subprocess.DEVNULL
        )
    except OSError as error:
        raise KeyFileError(f"{program} cannot be run: {error.strerror}") from error
    with process:
        keyring = _output(process, deadline)
        if keyring is None:
            process.kill()
            raise KeyFileError(
                f"{program} exports more than {limits.PGP_KEYRING_BYTES} bytes "
                f"or takes longer than {limits.GPG_SECONDS:.0f} seconds"
            )
    if process.returncode:
        used = _home(home)
        state = "" if os.path.isdir(used) else ", which is not a directory"
        raise KeyFileError(
            f"{program} --export fails with status {process.returncode}; its home directory is {quoted(used)}{state}"
        )
    return keyring


def _home(home: str | None) -> str:
    """Return the directory that GnuPG uses."""
    return os.path.abspath(home or os.environ.get("GNUPGHOME") or os.path.expanduser("~/.gnupg"))


def _output(process: subprocess.Popen[bytes], deadline: float) -> bytes | None:
    """Read all output until the process has ended; return None if it is too long or takes too long."""
    assert process.stdout is not None  # noqa: S101  # for the type checker
    poll = polling.poll()
    poll.register(process.stdout, polling.POLLIN)
    data = bytearray()
    while len(data) <= limits.PGP_KEYRING_BYTES:
        if not poll.poll(max(0, deadline - time.monotonic()) * 1000):
            return None
        chunk = os.read(process.stdout.fileno(), limits.READ_BYTES)
        if not chunk:
            return bytes(data) if _ended(process, deadline) else None
        data += chunk
    return None


def _ended(process: subprocess.Popen[bytes], deadline: float) -> bool:
    try:
        process.wait(max(0, deadline - time.monotonic()))
    except subprocess.TimeoutExpired:
        return False
    return True
