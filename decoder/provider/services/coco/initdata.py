"""initdata: the configuration that a guest of Confidential Containers gets at its start, such as its broker's URL.

The initdata specification defines the format: TOML whose `data` holds the configuration files of the guest's agents.
A pod carries the TOML in base64 as an annotation; for current versions of Kata Containers it is first compressed with
gzip.
"""

from __future__ import annotations

import gzip

from cryptography import x509
from cryptography.hazmat.primitives.serialization import Encoding

from decoder.errors import KeyFileError, UsageError, quoted
from decoder.formats import wire
from decoder.formats.certificates import UNREADABLE
from decoder.keys.file import read_key_file
from decoder.provider.address import base_url

ALGORITHMS = ("sha256", "sha384", "sha512")
ANNOTATION = "io.katacontainers.config.hypervisor.cc_init_data"
"""The annotation that current versions of Kata Containers read; they compress with gzip."""
OLD_ANNOTATION = "io.katacontainers.config.runtime.cc_init_data"
"""The annotation that peer pods and older versions read; without compression."""

_VERSION = "0.1.1"
_SOCKET = "unix:///run/confidential-containers/cdh.sock"


def build_initdata(kbs: str, ca_file: str = "", algorithm: str = "sha256") -> str:
    """Build initdata that names a key broker.

    Args:
        kbs: the URL of the broker, as guests reach it.
        ca_file: certificates in PEM to accept from the broker instead of the guest image's; "" for none.
        algorithm: one of ALGORITHMS, with which the guest measures the text.

    Returns:
        TOML.

    Raises:
        UsageError: the URL is malformed, or the file does not hold certificates.
    """
    url = base_url(kbs, "the option --kbs")
    if "'" in url:
        raise UsageError(f"the option --kbs {quoted(url)} holds a quote")
    certificates = _read_certificates(ca_file) if ca_file else ""
    cert = f'cert = """\n{certificates}"""\n' if certificates else ""
    kbs_cert = f'kbs_cert = """\n{certificates}"""\n' if certificates else ""
    return (
        f'algorithm = "{algorithm}"\n'
        f'version = "{_VERSION}"\n\n'
        "[data]\n"
        "\"aa.toml\" = '''\n"
        f"[token_configs]\n[token_configs.coco_as]\nurl = '{url}'\n\n[token_configs.kbs]\nurl = '{url}'\n{cert}"
        "'''\n\n"
        "\"cdh.toml\" = '''\n"
        f"socket = '{_SOCKET}'\ncredentials = []\n\n[kbc]\nname = 'cc_kbc'\nurl = '{url}'\n{kbs_cert}"
        "'''\n"
    )


def build_annotation(initdata: str, compressed: bool) -> str:
    """Build the value of ANNOTATION (compressed) or OLD_ANNOTATION; equal texts give equal values."""
    data = initdata.encode()
    return wire.encode_base64(gzip.compress(data, mtime=0) if compressed else data)


def _read_certificates(path: str) -> str:
    """Read certificates, and serialize them again, so that other text of the file does not get into the TOML."""
    try:
        found = x509.load_pem_x509_certificates(read_key_file(path))
    except KeyFileError as error:
        raise UsageError(f"the option --ca {quoted(path)}: {error}") from error
    except UNREADABLE as error:
        raise UsageError(f"the option --ca {quoted(path)} does not hold certificates in PEM") from error
    return "".join(certificate.public_bytes(Encoding.PEM).decode() for certificate in found)
