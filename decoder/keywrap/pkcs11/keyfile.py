"""PKCS#11 key files: YAML with the URI of a key, and environment variables for its module.

The form is ocicrypt's: `pkcs11: {uri: "pkcs11:…"}` and `module: {env: {NAME: value}}`.
"""

from __future__ import annotations

from typing import TypeGuard, cast

from decoder import limits
from decoder.errors import KeyFileError, WrappedKeyError
from decoder.extras import missing
from decoder.keys.file import read_key_file
from decoder.keywrap.pkcs11.uri import Pkcs11Uri, parse_uri, percent_decode
from decoder.record import Record

EXTRA = "pkcs11"  # of pyproject.toml


class Pkcs11KeyFile(Record):
    """A key on a token, and the environment variables to set while its module is in use."""

    uri: Pkcs11Uri
    environment: dict[str, str]


def parse_key_file(data: bytes) -> Pkcs11KeyFile:
    """Parse a key file of at most PKCS11_YAML_BYTES.

    Raises:
        KeyFileError: it is malformed; the message does not quote it, because it may hold a PIN.
        WrappedKeyError: the YAML library is not installed.
    """
    content = parse_yaml(data)
    uri = mapping(content.get("pkcs11"), "pkcs11").get("uri")
    if not is_text(uri):
        raise KeyFileError("it has no pkcs11 uri")
    environment = mapping(mapping(content.get("module"), "module").get("env"), "module env")
    return Pkcs11KeyFile(parse_uri(uri), {name: _variable(name, value) for name, value in environment.items()})


def read_pin(uri: Pkcs11Uri) -> str | None:
    """Return the PIN that a URI holds or points to, without one trailing line break; None if it has no PIN.

    Raises:
        KeyFileError: the PIN's file cannot be read, or the PIN is empty, too long, or not UTF-8.
    """
    source = uri.query.get("pin-source")
    pin = uri.query.get("pin-value") if source is None else _read_pin_file(source)
    if pin is not None and not 0 < len(pin.encode()) <= limits.PKCS11_PIN_BYTES:
        raise KeyFileError(f"its PIN is empty or longer than {limits.PKCS11_PIN_BYTES} bytes")
    return pin


def parse_yaml(data: bytes) -> dict[str, object]:
    """Parse a YAML mapping of at most PKCS11_YAML_BYTES and PKCS11_YAML_BRACKETS; every scalar stays text.

    Raises:
        KeyFileError: it is too long, too deep, not YAML, or not a mapping.
        WrappedKeyError: the YAML library is not installed.
    """
    try:
        import yaml
    except ImportError as error:
        raise WrappedKeyError(missing(EXTRA, error)) from error
    if len(data) > limits.PKCS11_YAML_BYTES:
        raise KeyFileError(f"it is longer than {limits.PKCS11_YAML_BYTES} bytes")
    if data.count(b"[") + data.count(b"{") > limits.PKCS11_YAML_BRACKETS:
        raise KeyFileError(f"it has more than {limits.PKCS11_YAML_BRACKETS} brackets")
    try:
        # BaseLoader knows only text, lists and maps; unlike SafeLoader it has no merge keys, which can expand a lot.
        content: object = yaml.load(data, yaml.BaseLoader)  # noqa: S506
    except (yaml.YAMLError, ValueError, RecursionError) as error:
        raise KeyFileError("it is not YAML") from error
    return mapping(content, "content")


def mapping(value: object, name: str) -> dict[str, object]:
    """Return a YAML mapping whose keys are text; an absent value or an empty scalar is an empty mapping.

    Raises:
        KeyFileError: the value is something else.
    """
    if value is None or value == "":
        return {}
    if not isinstance(value, dict) or not all(isinstance(key, str) for key in value):
        raise KeyFileError(f"its {name} is not a mapping")
    return cast("dict[str, object]", value)


def is_text(value: object) -> TypeGuard[str]:
    """Check whether a YAML value is text that can be a path or variable: without NUL, and without lone surrogates."""
    return isinstance(value, str) and "\0" not in value and value == value.encode(errors="replace").decode()


def _variable(name: str, value: object) -> str:
    """Return the value of an environment variable, if it is allowed.

    Variables of the dynamic loader are not: they could load code from outside the allowed paths.
    """
    if not name or "=" in name or not is_text(name) or not is_text(value):
        raise KeyFileError("its module env has something other than NAME: text")
    if name.startswith("LD_"):
        raise KeyFileError("its module env sets a variable of the dynamic loader (LD_…)")
    return value


def _read_pin_file(source: str) -> str:
    """Read a PIN from an absolute path or a file: URI (RFC 8089); other sources are optional in RFC 7512 §2.4."""
    path = source
    if source.startswith("file:"):
        path = percent_decode(source.removeprefix("file:").removeprefix("//")).decode(errors="surrogateescape")
    if not path.startswith("/") or "\0" in path:
        raise KeyFileError("its pin-source is neither an absolute path nor a file: URI of one")
    try:
        data = read_key_file(path)
    except KeyFileError as error:
        raise KeyFileError(f"its pin-source cannot be read: {error}") from error
    try:
        return data.removesuffix(b"\n").removesuffix(b"\r").decode()
    except UnicodeDecodeError as error:
        raise KeyFileError("the PIN in its pin-source is not UTF-8") from error
