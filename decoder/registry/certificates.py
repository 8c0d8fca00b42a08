"""Certificates for one registry, stored as for docker and podman (containers-certs.d(5)).

The directory HOST[:PORT] has the name of the registry in references. It has `*.crt`, authorities that are trusted
besides the system's, and NAME.cert with NAME.key, a client certificate. As in those programs, they also apply to hosts
that the registry refers to, such as its token service.
"""

from __future__ import annotations

import os
import ssl

from decoder.errors import ImageError, KeyFileError, quoted
from decoder.keys.file import read_key_file
from decoder.node.authorities import trust_bundle

# Only the first of these with a directory for the registry is used.
_PLACES = ("~/.config/containers/certs.d", "/etc/containers/certs.d", "/etc/docker/certs.d")
_AUTHORITY, _CERTIFICATE, _KEY = ".crt", ".cert", ".key"


def tls_context(host: str, verify: bool) -> ssl.SSLContext:
    """Build the SSLContext for a registry.

    Args:
        host: the registry's host, with its port if that was given.
        verify: whether to check certificates, with the authorities of the system or $SSL_CERT_FILE and of these files.

    Raises:
        ImageError: a file in the directory cannot be used, or a key or its certificate is missing.
    """
    context = ssl.create_default_context()  # with OpenSSL's authorities; to load them again would take 20 ms
    trust_bundle(context)
    if not verify:
        context.check_hostname = False
        context.verify_mode = ssl.CERT_NONE
    for place in _PLACES:
        directory = os.path.join(os.path.expanduser(place), host)
        try:
            names = sorted(os.listdir(directory))
        except (FileNotFoundError, NotADirectoryError, PermissionError):
            continue
        except OSError as error:
            raise ImageError(f"{quoted(directory)}: {error.strerror}") from error
        _add(context, directory, names)
        break
    return context


def _add(context: ssl.SSLContext, directory: str, names: list[str]) -> None:
    for name in names:
        if name.endswith(_AUTHORITY):
            _trust(context, os.path.join(directory, name))
    stems = [{name.removesuffix(end) for name in names if name.endswith(end)} for end in (_CERTIFICATE, _KEY)]
    for stem in sorted(stems[0] ^ stems[1]):
        raise ImageError(f"{quoted(directory)} needs both {quoted(stem + _CERTIFICATE)} and {quoted(stem + _KEY)}")
    if len(stems[0]) > 1:
        raise ImageError(f"{quoted(directory)} has several client certificates; only one can be used")
    for stem in stems[0]:
        _show(context, os.path.join(directory, stem))


def _trust(context: ssl.SSLContext, path: str) -> None:
    try:
        context.load_verify_locations(cadata=read_key_file(path).decode("ascii"))
    except KeyFileError as error:
        raise ImageError(f"{quoted(path)}: {error}") from error
    except (ssl.SSLError, ValueError) as error:
        raise ImageError(f"{quoted(path)} holds no certificate in PEM form") from error


def _show(context: ssl.SSLContext, stem: str) -> None:
    certificate, key = stem + _CERTIFICATE, stem + _KEY
    try:
        context.load_cert_chain(certificate, key, password="")  # without "", OpenSSL would ask at the terminal
    except ssl.SSLError as error:
        raise ImageError(
            f"{quoted(certificate)} and {quoted(key)} are not a certificate and its unencrypted key"
        ) from error
    except OSError as error:
        raise ImageError(f"{quoted(certificate)} or {quoted(key)}: {error.strerror}") from error
