"""The certificate authorities that a system trusts."""

from __future__ import annotations

import os
import ssl

# The bundle files of Debian, Alpine and Arch; of Fedora and RHEL (two); of openSUSE; and of others.
_BUNDLES = (
    "/etc/ssl/certs/ca-certificates.crt",
    "/etc/pki/tls/certs/ca-bundle.crt",
    "/etc/pki/ca-trust/extracted/pem/tls-ca-bundle.pem",
    "/etc/ssl/ca-bundle.pem",
    "/etc/ssl/cert.pem",
)


def trust_system(context: ssl.SSLContext) -> None:
    """Load the authorities of this system, or those of $SSL_CERT_FILE and $SSL_CERT_DIR, into a context.

    OpenSSL searches only the paths that it was built with. In the packages these are Debian's, which other systems do
    not have; then the first existing bundle is loaded.

    Raises:
        ssl.SSLError: the bundle is damaged.
        OSError: the bundle cannot be read.
    """
    context.load_default_certs()
    trust_bundle(context)


def trust_bundle(context: ssl.SSLContext) -> None:
    """Load that bundle into a context that has OpenSSL's authorities, if it is needed.

    Raises:
        ssl.SSLError: the bundle is damaged.
        OSError: it cannot be read.
    """
    paths = ssl.get_default_verify_paths()
    if paths.cafile or paths.capath or {paths.openssl_cafile_env, paths.openssl_capath_env} & os.environ.keys():
        return
    for bundle in _BUNDLES:
        if os.path.isfile(bundle):
            context.load_verify_locations(bundle)
            return
