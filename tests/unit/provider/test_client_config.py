"""The file that configures keyproviders."""

from __future__ import annotations

import json
from typing import Any

import pytest

from decoder import limits
from decoder.provider.client.config import (
    CommandProvider,
    Configured,
    GrpcProvider,
    GrpcTls,
    MalformedProvider,
    NativeProvider,
    TtrpcProvider,
    parse_config,
)
from decoder.provider.errors import ProviderError


def parse(**entry: Any) -> Configured:
    (provider,) = parse_config(json.dumps({"key-providers": {"kms": entry}}).encode()).providers
    return provider


TLS = {
    "root-ca-file": "/ca",
    "cert-file": "/cert",
    "key-file": "/key",
    "server-name": "kms",
    "insecure-skip-verify": True,
}


@pytest.mark.parametrize(
    ("entry", "transport"),
    [
        ({"cmd": {"path": "/bin/x", "args": ["-a", "b"]}}, CommandProvider("/bin/x", ("-a", "b"))),
        ({"cmd": {"path": "/bin/x", "args": None}}, CommandProvider("/bin/x")),
        ({"CMD": {"Path": "/bin/x"}}, CommandProvider("/bin/x")),
        ({"path": "/bin/x", "args": ["-a"]}, CommandProvider("/bin/x", ("-a",))),
        ({"cmd": {"path": "/bin/x"}, "user": "kms"}, CommandProvider("/bin/x", user="kms")),
        (
            {"cmd": {"path": "/bin/x"}, "env": {"A": "1", "a": ""}},
            CommandProvider("/bin/x", environment={"A": "1", "a": ""}),
        ),
        ({"cmd": {"path": "/bin/x"}, "env": {}}, CommandProvider("/bin/x", environment={})),
        ({"grpc": "localhost:1"}, GrpcProvider("localhost:1")),
        ({"grpc": "localhost:1", "grpc-tls": None}, GrpcProvider("localhost:1")),
        ({"grpc": "unix:///x", "grpc-tls": {}}, GrpcProvider("unix:///x", GrpcTls())),
        ({"grpc": "h:1", "grpc-tls": TLS}, GrpcProvider("h:1", GrpcTls("/ca", "/cert", "/key", "kms", True))),
        ({"ttrpc": "unix:///x"}, TtrpcProvider("unix:///x")),
        (
            {"native": "gcpkms", "key": "k", "allow-key": ["a"]},
            NativeProvider("gcpkms", {"key": "k", "allow-key": ["a"]}),
        ),
        ({"native": "local", "timeout": 1, "aliases": ["b"]}, NativeProvider("local", {})),
    ],
)
def test_forms(entry: dict[str, Any], transport: object) -> None:
    assert parse(**entry).transport == transport


def test_the_command_goes_before_the_server() -> None:
    config = parse_config(b'{"key-providers":{"kms":{"grpc":"localhost:1","cmd":{"path":"/bin/x"}}}}')
    assert config.providers[0].transport == CommandProvider("/bin/x")
    assert config.warnings == ["the field 'grpc' in 'key-providers.kms' is ignored"]


@pytest.mark.parametrize("seconds", [1, 0.5, 600])
def test_timeout(seconds: float) -> None:
    assert parse(grpc="h:1", timeout=seconds).seconds == seconds
    assert parse(grpc="h:1", timeout=None).seconds == parse(grpc="h:1").seconds == 30


@pytest.mark.parametrize(
    ("entry", "reason"),
    [
        (None, "it has neither cmd nor grpc nor native"),
        ({}, "it has neither cmd nor grpc nor native"),
        ({"cmd": {}}, "it has neither cmd nor grpc nor native"),
        ([], "JSON array instead of an object"),
        ({"cmd": "/bin/x"}, "its cmd: JSON string instead of an object"),
        ({"cmd": {"args": ["x"]}}, "its command has no path"),
        ({"cmd": {"path": 1}}, "its path: JSON number instead of a string"),
        ({"cmd": {"path": "a\0b"}}, "its path holds a null character"),
        ({"cmd": {"path": "x", "args": "x"}}, "its args is not a list of strings"),
        ({"cmd": {"path": "x", "args": ["\0"]}}, "its args is not a list of strings"),
        ({"cmd": {"path": "x"}, "user": 0}, "its user: JSON number instead of a string"),
        ({"cmd": {"path": "x"}, "env": ["A=1"]}, "its env: JSON array instead of an object"),
        ({"cmd": {"path": "x"}, "env": {"A=": "1"}}, "its env has a name that an environment variable cannot have"),
        ({"cmd": {"path": "x"}, "env": {"A": 1}}, "its A: JSON number instead of a string"),
        ({"grpc": 1}, "its grpc: JSON number instead of a string"),
        ({"grpc": "h:1", "grpc-tls": True}, "its grpc-tls: JSON boolean instead of an object"),
        ({"grpc": "h:1", "grpc-tls": {"cert-file": "c"}}, "its grpc-tls needs both cert-file and key-file, or neither"),
        (
            {"grpc": "h:1", "grpc-tls": {"insecure-skip-verify": "no"}},
            "its insecure-skip-verify is neither true nor false",
        ),
        ({"grpc": "h:1", "timeout": 0}, "its timeout is not a number of seconds up to 600"),
        ({"grpc": "h:1", "timeout": -1}, "its timeout is not a number of seconds up to 600"),
        ({"grpc": "h:1", "timeout": 601}, "its timeout is not a number of seconds up to 600"),
        ({"grpc": "h:1", "timeout": True}, "its timeout is not a number of seconds up to 600"),
        ({"grpc": "h:1", "timeout": "30"}, "its timeout is not a number of seconds up to 600"),
        ({"grpc": "h:1", "timeout": float("inf")}, "its timeout is not a number of seconds up to 600"),
        ({"grpc": "h:1", "aliases": "b"}, "its aliases is not a list of strings"),
    ],
)
def test_a_malformed_entry_spoils_no_other(entry: object, reason: str) -> None:
    config = parse_config(json.dumps({"key-providers": {"bad": entry, "good": {"grpc": "h:1"}}}).encode())
    assert [provider.transport for provider in config.providers] == [MalformedProvider(reason), GrpcProvider("h:1")]


@pytest.mark.parametrize(
    ("text", "reason"),
    [
        ('{\n  "key-providers": {\n    "a": {"grpc": "h:1",}\n  }\n}', "line 3, column"),
        ("", "line 1, column 1: Expecting value"),
        ('{"key-providers": {}} x', "line 1, column 23: Extra data"),
        ("[" * 100_000, "its JSON is nested too deeply"),
        ("[]", "JSON array instead of an object"),
        ('{"key-providers": "x"}', "JSON string instead of an object"),
        (" " * (limits.CONFIGURATION_BYTES + 1), f"it is larger than {limits.CONFIGURATION_BYTES} bytes"),
    ],
)
def test_what_cannot_be_parsed(text: str, reason: str) -> None:
    with pytest.raises(ProviderError, match=f"^{reason}"):
        parse_config(text.encode())


def test_no_providers() -> None:
    for text in (b"{}", b"null", b'{"key-providers":null}', b'{"key-providers":{}}'):
        assert parse_config(text) == ([], [])


def test_unknown_fields_are_warned_of() -> None:
    entries = {
        "kms": {"cmd": {"path": "x", "arg": []}, "tiemout": 1},
        "remote": {"grpc": "h:1", "grpc-tls": {"ca": "x"}, "user": "x"},
    }
    assert parse_config(json.dumps({"key-providers": entries, "keyproviders": {}}).encode()).warnings == [
        "the field 'keyproviders' is ignored",
        "the field 'tiemout' in 'key-providers.kms' is ignored",
        "the field 'arg' in 'key-providers.kms.cmd' is ignored",
        "the field 'user' in 'key-providers.remote' is ignored",
        "the field 'ca' in 'key-providers.remote.grpc-tls' is ignored",
    ]
    many = {str(number): 1 for number in range(1000)}
    assert len(parse_config(json.dumps(many).encode()).warnings) == limits.CONFIGURATION_WARNINGS


def test_the_name_goes_before_aliases_and_these_in_the_order_of_the_file() -> None:
    entries = {
        "first": {"grpc": "h:1", "aliases": ["kms", "other"]},
        "malformed": {"aliases": ["kms"]},
        "unrelated": {"grpc": "h:2"},
        "kms": {"grpc": "h:3", "aliases": ["kms"]},
    }
    config = parse_config(json.dumps({"key-providers": entries}).encode())
    assert [provider.name for provider in config.answering("kms")] == ["kms", "first", "malformed"]
    assert [provider.name for provider in config.answering("other")] == ["first"]
    assert config.answering("Kms") == []
