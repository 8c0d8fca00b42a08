"""Keyproviders that are commands: through the installed program, beside the reference, and all that goes wrong."""

from __future__ import annotations

import subprocess
import sys
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from decoder import limits
from decoder.errors import ProviderFailedError, WrappedKeyError
from decoder.formats import wire
from decoder.keywrap.keyprovider import KeyProvider
from decoder.layer.annotations import KEYS_PREFIX
from decoder.provider.client import command
from decoder.provider.client.config import CommandProvider
from tests.support.keywrap.layers import encrypted, pem, private_options, rsa_key
from tests.support.program.processes import ROOT, Result
from tests.support.provider import client_parts
from tests.support.provider.client_parts import (
    NAME,
    PLAINTEXT,
    CommandParts,
    configuration,
    decrypt,
    layer_for,
    reply,
    shell,
    turning_command,
    unwrap,
)

ANNOTATION = f"{KEYS_PREFIX}provider.{NAME}"
SECONDS = 1
QUICK_SECONDS = 8.0  # the time limit of the tests' providers, the program's start and much for a busy machine


@pytest.fixture
def provider(tmp_path: Path) -> CommandParts:
    return turning_command(tmp_path)


@pytest.fixture(autouse=True)
def quickly() -> Iterator[None]:
    started = time.monotonic()
    yield
    assert time.monotonic() - started < QUICK_SECONDS


def fails(result: Result, status: int, *texts: str) -> None:
    assert result.status == status, result.errors
    assert result.plaintext == b""
    assert result.errors.startswith("ctd-decoder: error: no key opens this layer\n")
    assert "Traceback" not in result.errors
    assert len(result.errors) < 10_000
    for text in texts:
        assert text in result.errors


def answering(options: bytes, **how: Any) -> dict[str, Any]:
    return shell(f"echo '{reply(options, **how)}'")


def test_a_command_opens_the_layer(provider: CommandParts, tmp_path: Path) -> None:
    result = decrypt(configuration(tmp_path, {NAME: provider.entry}))
    assert result == (0, PLAINTEXT, "")


def test_the_option_goes_before_the_variable(provider: CommandParts, tmp_path: Path) -> None:
    config_file = configuration(tmp_path, {NAME: provider.entry})
    assert decrypt("/nonexistent", None, "--keyprovider-config", config_file) == (0, PLAINTEXT, "")


def test_the_form_without_cmd(provider: CommandParts, tmp_path: Path) -> None:
    assert decrypt(configuration(tmp_path, {NAME: {"path": provider.path, "args": []}})) == (0, PLAINTEXT, "")


@pytest.mark.parametrize("integers", [False, True])
def test_replies(integers: bool, tmp_path: Path) -> None:
    entry = answering(private_options(), integers=integers)
    assert decrypt(configuration(tmp_path, {NAME: entry})) == (0, PLAINTEXT, "")


def test_what_we_wrap_we_open(provider: CommandParts, tmp_path: Path) -> None:
    config_file = configuration(tmp_path, {NAME: provider.entry})
    annotation = KeyProvider(NAME, config_file).wrap(private_options(), [b"key one", b"key two"])
    (request,) = provider.requests()
    assert request["op"] == "keywrap"
    keys = [wire.encode_base64(b"key one"), wire.encode_base64(b"key two")]
    assert request["keywrapparams"]["ec"] == {"Parameters": {NAME: keys}, "DecryptConfig": {"Parameters": {}}}
    layer = encrypted(PLAINTEXT, {f"provider.{NAME}": [annotation]})
    assert decrypt(config_file, layer) == (0, PLAINTEXT, "")


def test_wrapping_without_a_parameter(provider: CommandParts, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("OCICRYPT_KEYPROVIDER_CONFIG", configuration(tmp_path, {NAME: provider.entry}))
    assert KeyProvider(NAME).wrap(private_options(), []) == client_parts.wrapped()
    (request,) = provider.requests()
    assert request["keywrapparams"]["ec"]["Parameters"] == {NAME: [wire.encode_base64(b"Enabled")]}


def test_a_provider_gets_its_own_parameters_and_no_key(provider: CommandParts, tmp_path: Path) -> None:
    keys = tmp_path / "keys"
    keys.mkdir()
    canary, canary_on_the_node = pem(rsa_key()), pem(rsa_key(3072))
    (keys / "key.pem").write_bytes(canary_on_the_node)
    parameters = {"privkeys": [canary], "privkeys-passwords": [b"secret"], NAME: [b"own"], "another": [b"foreign"]}
    config_file = configuration(tmp_path, {NAME: provider.entry})
    options = ["--decryption-keys-path", str(keys)]
    needles = [wire.encode_base64(text) for text in (canary, canary_on_the_node, b"foreign")]

    assert decrypt(config_file, None, *options, parameters=parameters) == (0, PLAINTEXT, "")
    (request,) = provider.requests()
    assert request["keyunwrapparams"]["dc"] == {"Parameters": {NAME: [wire.encode_base64(b"own")]}}
    assert not any(needle in provider.record.read_text() for needle in needles)


@pytest.mark.parametrize("name", ["privkeys", "gpg-privatekeys", "pkcs11-yamls", "x509s"])
def test_a_provider_named_like_a_parameter_gets_no_key(name: str, provider: CommandParts, tmp_path: Path) -> None:
    parameters = {name: [pem(rsa_key())]}
    config_file = configuration(tmp_path, {name: provider.entry})
    assert decrypt(config_file, layer_for(name), parameters=parameters).status == 0
    (request,) = provider.requests()
    assert request["keyunwrapparams"]["dc"] == {"Parameters": {}}


def test_aliases(provider: CommandParts, tmp_path: Path) -> None:
    config_file = configuration(tmp_path, {"renamed": {**provider.entry, "aliases": [NAME]}})
    for parameters in ({NAME: [b"key"]}, {"renamed": [b"key"]}):
        assert decrypt(config_file, parameters=parameters) == (0, PLAINTEXT, "")
    own = {"Parameters": {"renamed": [wire.encode_base64(b"key")]}}
    assert [request["keyunwrapparams"]["dc"] for request in provider.requests()] == [own, own]


def test_the_next_provider_when_one_fails(provider: CommandParts, tmp_path: Path) -> None:
    entries = {
        "spare": {**provider.entry, "aliases": [NAME]},
        "broken": {"grpc": 1, "aliases": [NAME]},
        NAME: shell("echo denied >&2; exit 1"),
    }
    result = decrypt(configuration(tmp_path, entries))
    assert (result.status, result.plaintext) == (0, PLAINTEXT)
    assert result.errors.startswith(
        "ctd-decoder: warning: the keyprovider 'kmscrypt' (the command '/bin/sh'): it ended"
    )
    entries["spare"]["cmd"] = {"path": "/nonexistent"}
    failure = decrypt(configuration(tmp_path, entries))
    fails(
        failure,
        6,
        "'kmscrypt' (the command '/bin/sh'): it ended with status 1, saying 'denied'; the keyprovider 'spare'",
    )
    fails(failure, 6, "the keyprovider 'broken' (its configuration): its grpc: JSON number instead of a string")


def test_unknown_fields_are_warned_of(provider: CommandParts, tmp_path: Path) -> None:
    config_file = configuration(tmp_path, {NAME: {**provider.entry, "tiemout": 3}})
    layer = encrypted(PLAINTEXT, {f"provider.{NAME}": [b"x", client_parts.wrapped()]})
    result = decrypt(config_file, layer)
    assert (result.status, result.plaintext) == (0, PLAINTEXT)
    warning = f"the keyprovider configuration {config_file!r}: the field 'tiemout' in 'key-providers.{NAME}' is ignored"
    assert result.errors.count(warning) == 1


def test_nobody_configured_it(tmp_path: Path) -> None:
    named = f"{ANNOTATION}[0]: no keyprovider '{NAME}' is configured"
    fails(decrypt(""), 4, f"{named}: no configuration file is named (OCICRYPT_KEYPROVIDER_CONFIG)")
    fails(decrypt("/nonexistent/file"), 4, f"{named}: there is no file '/nonexistent/file'")
    config_file = configuration(tmp_path, {"one": shell("true"), "two": shell("true")})
    fails(decrypt(config_file), 4, f"{named} in {config_file!r}, which has 'one, two' (an alias can join the names)")
    config_file = configuration(tmp_path, {})
    fails(decrypt(config_file), 4, f"{named} in {config_file!r}, which has none")


def test_a_configuration_that_cannot_be_read(tmp_path: Path) -> None:
    config_file = tmp_path / "keyprovider.conf"
    config_file.write_text('{"key-providers": {\n  "kmscrypt": }}')
    for path, reason in ((config_file, "not JSON"), (tmp_path, "it is not a regular file")):
        result = decrypt(str(path))
        assert (result.status, result.plaintext) == (4, b"")
        assert f"configuration '{path}', which may hold deny rules, cannot be read: {reason}" in result.errors


BAD = {
    "missing": ({"cmd": {"path": "/none/kms"}}, "(the command '/none/kms'): it cannot be started: No such file"),
    "not executable": ({"cmd": {"path": "/etc/passwd"}}, "it cannot be started: Permission denied"),
    "a directory": ({"cmd": {"path": "/etc"}}, "it cannot be started: Permission denied"),
    "not on PATH": ({"cmd": {"path": "no-such-keyprovider"}}, "it cannot be started: No such file"),
    "hangs": (shell("echo waiting >&2; sleep 100"), f"it did not end within {SECONDS} seconds, saying 'waiting'"),
    "hangs after its reply": (shell(f"echo '{reply(private_options())}'; exec >&-; sleep 9"), "it did not end within"),
    "floods stdout": (shell("yes"), "it wrote more than 1048576 bytes to standard output"),
    "floods stderr": (shell("yes no >&2"), "it wrote more than 1048576 bytes to standard error, saying …"),
    "exits 1": (shell("echo 'no access to key' >&2; exit 1"), "it ended with status 1, saying 'no access to key'"),
    "exits 1 after its reply": (shell(f"echo '{reply(private_options())}'; exit 1"), "it ended with status 1"),
    "control characters": (shell("printf '\\033[1mx\\ny' >&2; exit 2"), r"saying '\x1b[1mx\ny'"),
    "is killed": (shell("kill -SEGV $$"), "it was killed by SIGSEGV"),
    "says nothing": (shell("cat >/dev/null"), "it ended without a reply"),
    "garbage": (shell("echo garbage"), "its reply cannot be read: not JSON"),
    "null": (shell("echo null"), "its reply cannot be read: JSON null"),
    "another operation": (shell("echo '{\"keywrapresults\":{\"annotation\":\"AAAA\"}}'"), "its reply cannot be read"),
    "no options": (answering(b"garbage"), "it opened the wrapped key to malformed private options: not JSON"),
    "no such user": ({**shell("true"), "user": "no such user"}, "there is no user 'no such user' to run it as"),
    "native": ({"native": "vault"}, "(our own 'vault'): its configuration: there is no provider 'vault'"),
    "ttrpc": ({"ttrpc": "unix:///none/x.sock"}, "(ttrpc at 'unix:///none/x.sock'): it cannot be reached: No such file"),
}  # fmt: skip


@pytest.mark.parametrize(("entry", "text"), BAD.values(), ids=BAD.keys())
def test_a_provider_that_fails(entry: dict[str, Any], text: str, tmp_path: Path) -> None:
    result = decrypt(configuration(tmp_path, {NAME: {**entry, "timeout": SECONDS}}))
    fails(result, 6, f"{ANNOTATION}[0]: the keyprovider '{NAME}'", text)


def test_the_interpreter_is_missing(tmp_path: Path) -> None:
    path = client_parts.script(tmp_path / "provider", "#!/nonexistent/python\n")
    result = decrypt(configuration(tmp_path, {NAME: {"cmd": {"path": path}}}))
    fails(result, 6, "No such file or directory (the interpreter that its first line names)")


def test_the_wrong_key(tmp_path: Path) -> None:
    result = decrypt(configuration(tmp_path, {NAME: answering(private_options(symmetric_key=bytes(32)))}))
    assert (result.status, result.errors) == (
        5,
        "ctd-decoder: error: the layer is damaged or not authentic: its HMAC differs\n",
    )


def test_no_descriptor_is_inherited(tmp_path: Path) -> None:
    """Descriptor 3 is the payload: whoever can read it can read the keys."""
    fails(decrypt(configuration(tmp_path, {NAME: shell("exec >&2; ls /proc/$$/fd; exit 1")})), 6, r"saying '0\n1\n2'")


@pytest.mark.parametrize("length", [0, 1, 100_000])
def test_a_command_that_does_not_read_its_request(length: int, tmp_path: Path) -> None:
    entry = shell(f"exec <&-; sleep 0.1; echo '{reply(private_options())}'")
    assert unwrap(configuration(tmp_path, {NAME: entry}), bytes(length)) == private_options()


def test_what_a_command_leaves_running(tmp_path: Path) -> None:
    """It holds the pipes open; it ends with the command, for nobody waits for it."""
    running = tmp_path / "running"
    entry = shell(f"sleep 100 & echo $! >{running}; echo '{reply(private_options())}'")
    assert unwrap(configuration(tmp_path, {NAME: entry})) == private_options()
    assert_ended(running)
    entry = {**shell(f"sh -c 'sleep 100 & echo $! >{running}; wait'"), "timeout": SECONDS}
    with pytest.raises(ProviderFailedError, match="it did not end within 1 seconds"):
        unwrap(configuration(tmp_path, {NAME: entry}))
    assert_ended(running)


def assert_ended(pid_file: Path) -> None:
    status = Path("/proc", pid_file.read_text().strip(), "stat")
    deadline = time.monotonic() + SECONDS
    while status.exists() and status.read_text().rpartition(")")[2].split()[0] != "Z":
        assert time.monotonic() < deadline
        time.sleep(0.01)


def test_a_reply_that_comes_a_moment_after_the_end(tmp_path: Path) -> None:
    entry = shell(f"(sleep 0.2; echo '{reply(private_options())}') &")
    assert unwrap(configuration(tmp_path, {NAME: entry})) == private_options()


def test_large_requests(provider: CommandParts, tmp_path: Path) -> None:
    config_file = configuration(tmp_path, {NAME: provider.entry})
    with pytest.raises(ProviderFailedError, match="malformed private options"):
        unwrap(config_file, bytes(limits.PROVIDER_ANNOTATION_BYTES))
    assert len(provider.requests()) == 1
    with pytest.raises(WrappedKeyError, match="it is longer than 262144 bytes"):
        unwrap(config_file, bytes(limits.PROVIDER_ANNOTATION_BYTES + 1))
    parameters = {NAME: [bytes(limits.PROVIDER_MESSAGE_BYTES)]}
    with pytest.raises(ProviderFailedError, match="the request would be longer than 1048576 bytes"):
        unwrap(config_file, parameters=parameters)
    assert len(provider.requests()) == 1


def test_the_environment_is_the_decoders(tmp_path: Path) -> None:
    config_file = configuration(tmp_path, {NAME: shell("echo $CANARY >&2; exit 1")})
    fails(decrypt(config_file, environment={"CANARY": "sings"}), 6, "saying 'sings'")


def test_or_what_env_lists(tmp_path: Path) -> None:
    said = command.ask(CommandProvider("/usr/bin/env", environment={"ONE": "1", "two": "=2"}), b"", SECONDS)
    assert sorted(said.splitlines()) == [b"ONE=1", b"two==2"]
    entry = {**shell("echo ${CANARY-gone} $ONE >&2; exit 1"), "env": {"ONE": "1"}}
    result = decrypt(configuration(tmp_path, {NAME: entry}), environment={"CANARY": "sings"})
    fails(result, 6, "saying 'gone 1'")


def test_another_user(tmp_path: Path) -> None:
    entry = {
        **shell("id -un >&2; id -G >&2; grep CapEff /proc/self/status >&2; echo $HOME >&2; exit 1"),
        "user": "nobody",
    }
    result = decrypt(configuration(tmp_path, {NAME: entry}))
    fails(result, 6, r"saying 'nobody\n65534\nCapEff:\t0000000000000000\n/nonexistent'")


def test_wrapping_fails_like_unwrapping(tmp_path: Path) -> None:
    with pytest.raises(WrappedKeyError, match="no keyprovider 'kmscrypt' is configured") as unconfigured:
        KeyProvider(NAME, str(tmp_path / "none")).wrap(private_options(), [])
    assert not isinstance(unconfigured.value, ProviderFailedError)
    config_file = configuration(tmp_path, {NAME: {**shell("echo no >&2; exit 3"), "x": 1}})
    provider = KeyProvider(NAME, config_file)
    with pytest.raises(ProviderFailedError, match="it ended with status 3, saying 'no'"):
        provider.wrap(private_options(), [])
    assert provider.warnings == [
        f"the keyprovider configuration {config_file!r}: the field 'x' in 'key-providers.{NAME}' is ignored"
    ]


def test_what_a_command_does_not_import(provider: CommandParts, tmp_path: Path) -> None:
    program = (
        f"import sys; sys.path[:0] = {sys.path!r}; from decoder.keywrap.keyprovider import KeyProvider\n"
        "print(*sys.modules)\n"
        "KeyProvider(sys.argv[1], sys.argv[2]).wrap(b'{}', [])\n"
        "print(*sys.modules)\n"
    )
    arguments = [NAME, configuration(tmp_path, {NAME: provider.entry})]
    done = subprocess.run(
        [sys.executable, "-S", "-c", program, *arguments],
        capture_output=True,
        text=True,
        cwd=ROOT,
        timeout=120,
        check=False,
    )
    assert done.returncode == 0, done.stderr
    before, after = (set(line.split()) for line in done.stdout.splitlines())
    assert before.isdisjoint({"subprocess", "threading", "decoder.provider.client.command"})
    assert "decoder.provider.client.command" in after
    assert after.isdisjoint({"grpc", "ssl", "socket", "pwd", "logging", "argparse", "decoder.provider.client.grpc"})
