r"""The keyprovider configuration (the file of ocicrypt's OCICRYPT_KEYPROVIDER_CONFIG), in JSON.

    {"key-providers": {
        "NAME": {"cmd": {"path": "/usr/bin/x", "args": ["-v"]}, "user": "keys", "env": {"HOME": "/var/lib/keys"}},
        "NAME": {"path": "/usr/bin/x", "args": []},
        "NAME": {"grpc": "host:port", "grpc-tls": {"root-ca-file": "…", "cert-file": "…", "key-file": "…",
                                                   "server-name": "…", "insecure-skip-verify": false}},
        "NAME": {"grpc": "unix:///run/keys.sock"},
        "NAME": {"ttrpc": "unix:///run/keys.sock"},
        "NAME": {"native": "gcpkms", "allow-key": ["…"]}}}

Each entry may have `timeout` (in seconds) and `aliases` (further names in annotations that it answers to). `env` is the
whole environment of a command; without it the command inherits the decoder's. As in Go, the case of field names does
not matter. If an entry has several ways to reach the provider, the first in the order above is used.
"""

from __future__ import annotations

import json

from decoder import limits
from decoder.errors import quoted
from decoder.formats import wire
from decoder.keys.subject import Subject
from decoder.provider.errors import ProviderError
from decoder.record import Record

_COMMON = ("timeout", "aliases")
_TLS = ("root-ca-file", "cert-file", "key-file", "server-name", "insecure-skip-verify")
_COMMAND = ("path", "args")
# In order of precedence, as in the reference; `path` is the form without `cmd`.
_WAYS = ("cmd", "path", "grpc", "native", "ttrpc")


class CommandProvider(Record):
    """A program that answers one request on standard input.

    Attributes:
        path: the path of the program, or its name on PATH.
        args: its arguments.
        user: the name of the user to run it as, or "" for the user of this process.
        environment: its whole environment, or None for that of this process.
    """

    path: str
    args: tuple[str, ...] = ()
    user: str = ""
    environment: dict[str, str] | None = None

    def describe(self) -> str:
        """Return its name for messages."""
        return f"the command {quoted(self.path)}"


class GrpcTls(Record):
    """The TLS settings for a server: paths of PEM files, "" for none.

    Attributes:
        root_ca_file: the CA certificates to trust instead of the system's.
        cert_file: our certificate chain, for mutual TLS.
        key_file: the private key of our certificate.
        server_name: the name to expect in the server's certificate, instead of the name in the address.
        insecure_skip_verify: whether to trust any certificate of the server.
    """

    root_ca_file: str = ""
    cert_file: str = ""
    key_file: str = ""
    server_name: str = ""
    insecure_skip_verify: bool = False


class GrpcProvider(Record):
    """A gRPC server: `host:port` or `unix:///path`; without `tls` the connection is not encrypted."""

    address: str
    tls: GrpcTls | None = None

    def describe(self) -> str:
        """Return its name for messages."""
        return f"gRPC at {quoted(self.address)}"


class NativeProvider(Record):
    """One of our own providers, run in this process, and its options by name."""

    provider: str
    options: dict[str, object]

    def describe(self) -> str:
        """Return its name for messages."""
        return f"our own {quoted(self.provider)}"


class TtrpcProvider(Record):
    """A ttrpc server: `unix:///path` or a path. Besides this program, only ocicrypt-rs uses ttrpc."""

    address: str

    def describe(self) -> str:
        """Return its name for messages."""
        return f"ttrpc at {quoted(self.address)}"


class MalformedProvider(Record):
    """An entry that cannot be understood; the other entries can still be used."""

    reason: str

    def describe(self) -> str:
        """Return its name for messages."""
        return "its configuration"


Transport = CommandProvider | GrpcProvider | NativeProvider | TtrpcProvider | MalformedProvider


_NOTHING = Subject()


class Configured(Record):
    """One entry of the file.

    Attributes:
        name: the entry's name.
        transport: the way to reach the provider.
        seconds: its time limit, above 0 and at most PROVIDER_TIMEOUT_SECONDS.
        aliases: further names in annotations that it answers to.
        subject: the layer or image that it is asked about, for the audit of keyprovider servers.
    """

    name: str
    transport: Transport
    seconds: float = limits.PROVIDER_SECONDS
    aliases: tuple[str, ...] = ()
    subject: Subject = _NOTHING


class ProviderConfig(Record):
    """The whole file: its providers in order, and warnings about it."""

    providers: list[Configured]
    warnings: list[str]

    def answering(self, name: str) -> list[Configured]:
        """Return the providers for a name in annotations: the one with this name, then those with this alias."""
        exact = [provider for provider in self.providers if provider.name == name]
        return exact + [provider for provider in self.providers if name in provider.aliases and provider not in exact]


def parse_config(data: bytes) -> ProviderConfig:
    """Parse the file.

    Args:
        data: JSON, at most CONFIGURATION_BYTES.

    Raises:
        ProviderError: it is not JSON (the text has line and column), or `key-providers` is not an object.
    """
    warnings: list[str] = []
    try:
        value = wire.object_value(_parse_json(data))
        _warn_of_unknown(value, ("key-providers", "deny", "strict-lookup"), "", warnings)
        entries = wire.object_value(wire.member(value, "key-providers"))
    except ValueError as error:
        raise ProviderError(str(error)) from error
    providers = [_parse_entry(name, entry, warnings) for name, entry in entries.items()]
    return ProviderConfig(providers, warnings[: limits.CONFIGURATION_WARNINGS])


def _parse_json(data: bytes) -> object:
    if len(data) > limits.CONFIGURATION_BYTES:
        raise ValueError(f"it is larger than {limits.CONFIGURATION_BYTES} bytes")
    try:
        return json.loads(data.decode(errors="replace"))
    except json.JSONDecodeError as error:
        raise ValueError(f"line {error.lineno}, column {error.colno}: {error.msg}") from error
    except RecursionError as error:
        raise ValueError("its JSON is nested too deeply") from error


def _parse_entry(name: str, entry: object, warnings: list[str]) -> Configured:
    """Parse one entry. A malformed one keeps its aliases, and its transport is a MalformedProvider."""
    seconds = limits.PROVIDER_SECONDS
    aliases: tuple[str, ...] = ()
    transport: Transport
    try:
        value = wire.object_value(entry)
        aliases = _texts(value, "aliases")
        transport = _parse_transport(value, f"key-providers.{name}", warnings)
        seconds = _seconds(value, transport)
    except ValueError as error:
        transport = MalformedProvider(str(error))
    return Configured(name, transport, seconds, aliases)


def _parse_transport(value: dict[str, object], where: str, warnings: list[str]) -> Transport:
    way = next((way for way in _WAYS if wire.member(value, way)), None)
    if way is None:
        raise ValueError("it has neither cmd nor grpc nor native")
    if way == "native":
        taken = ("native", *_COMMON)
        options = {name: item for name, item in value.items() if name.lower() not in taken}
        return NativeProvider(_text(value, "native"), options)
    known = {"cmd": ("user", "env"), "path": (*_COMMAND, "user", "env"), "grpc": ("grpc-tls",), "ttrpc": ()}
    _warn_of_unknown(value, (way, *known[way], *_COMMON), where, warnings)
    if way == "grpc":
        return GrpcProvider(_text(value, "grpc"), _parse_tls(value, where, warnings))
    if way == "ttrpc":
        return TtrpcProvider(_text(value, "ttrpc"))
    command = _object(value, "cmd") if way == "cmd" else value
    if way == "cmd":
        _warn_of_unknown(command, _COMMAND, f"{where}.cmd", warnings)
    path = _text(command, "path")
    if not path:
        raise ValueError("its command has no path")
    return CommandProvider(path, _texts(command, "args"), _text(value, "user"), _parse_environment(value))


def _parse_tls(value: dict[str, object], where: str, warnings: list[str]) -> GrpcTls | None:
    if wire.member(value, "grpc-tls") is None:
        return None
    tls = _object(value, "grpc-tls")
    _warn_of_unknown(tls, _TLS, f"{where}.grpc-tls", warnings)
    skip = wire.member(tls, "insecure-skip-verify")
    if skip is not None and type(skip) is not bool:
        raise ValueError("its insecure-skip-verify is neither true nor false")
    ca, certificate, key, name = (_text(tls, field) for field in _TLS[:4])
    if bool(certificate) != bool(key):
        raise ValueError("its grpc-tls needs both cert-file and key-file, or neither")
    return GrpcTls(ca, certificate, key, name, bool(skip))


def _parse_environment(value: dict[str, object]) -> dict[str, str] | None:
    if wire.member(value, "env") is None:
        return None
    environment = _object(value, "env")
    if any(not name or "=" in name or "\0" in name for name in environment):
        raise ValueError("its env has a name that an environment variable cannot have")
    return {name: _text(environment, name, exact=True) for name in environment}


def _seconds(value: dict[str, object], transport: Transport) -> float:
    seconds = wire.member(value, "timeout")
    if seconds is None:
        is_attested = isinstance(transport, NativeProvider) and transport.provider == "attestation-agent"
        return limits.COCO_PROVIDER_SECONDS if is_attested else limits.PROVIDER_SECONDS + _waiting(transport)
    if type(seconds) not in (int, float) or not 0 < float(str(seconds)) <= limits.PROVIDER_TIMEOUT_SECONDS:
        raise ValueError(f"its timeout is not a number of seconds up to {limits.PROVIDER_TIMEOUT_SECONDS:.0f}")
    return float(str(seconds))


def _waiting(transport: Transport) -> float:
    """Return the extra time of one of our own providers that waits for people, in seconds (its option `wait`)."""
    wait = transport.options.get("wait") if isinstance(transport, NativeProvider) else None
    if not isinstance(wait, str) or not wait.isascii() or not wait.isdecimal() or len(wait) > 5:
        return 0.0
    return min(float(wait), limits.GRANTS_WAIT_SECONDS) / limits.PROVIDER_OWN_SHARE


def _object(value: dict[str, object], name: str) -> dict[str, object]:
    return wire.named(f"its {name}", wire.object_value, wire.member(value, name))


def _text(value: dict[str, object], name: str, exact: bool = False) -> str:
    text = wire.named(f"its {name}", wire.text_value, value[name] if exact else wire.member(value, name))
    if "\0" in text:
        raise ValueError(f"its {name} holds a null character")
    return text


def _texts(value: dict[str, object], name: str) -> tuple[str, ...]:
    items = wire.member(value, name)
    if items is None:
        return ()
    if not isinstance(items, list) or not all(isinstance(item, str) and "\0" not in item for item in items):
        raise ValueError(f"its {name} is not a list of strings")
    return tuple(items)


def _warn_of_unknown(value: dict[str, object], known: tuple[str, ...], where: str, warnings: list[str]) -> None:
    """Add a warning for each unknown field; the reference ignores them silently."""
    place = f" in {quoted(where)}" if where else ""
    warnings += [f"the field {quoted(name)}{place} is ignored" for name in value if name.lower() not in known]
