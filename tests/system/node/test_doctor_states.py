"""`ctd-decoder doctor`: its agent, the content store, keyproviders and their images, as real programs leave them."""

from __future__ import annotations

import json
import os
import re
import shlex
import subprocess
from typing import TYPE_CHECKING

import pytest

from tests.support.image import images
from tests.support.image.images import Layout
from tests.support.node.containerd import CONFIGURATION, IMAGE, KEYS_DIRECTORY, Containerd
from tests.support.program.agent import Agent, Place, works
from tests.support.program.processes import PROGRAM
from tests.support.provider.serving import write_key

if TYPE_CHECKING:
    from pathlib import Path

    from tests.support.keys.keypairs import KeyPair

Findings = list[dict[str, str]]
LISTENS = re.compile(rb":([0-9]{4,5})\b")
PROVIDERS = "/etc/containerd/ocicrypt/ocicrypt_keyprovider.conf"
ELSEWHERE = CONFIGURATION + "".join(
    f'[stream_processors."io.containerd.ocicrypt.decoder.v1.tar{suffix}"]\n'
    f'accepts = ["application/vnd.oci.image.layer.v1.tar{kind}+encrypted"]\n'
    f'returns = "application/vnd.oci.image.layer.v1.tar{kind}"\npath = "ctd-decoder"\n'
    f'args = ["--decryption-keys-path", "{KEYS_DIRECTORY}", "--content-store", "/nowhere"]\n'
    for suffix, kind in (("", ""), (".gzip", "+gzip"))
)


def examine(containerd: Containerd, *arguments: str, command: tuple[str, ...] = ()) -> Findings:
    containerd.execute("chmod", "700", KEYS_DIRECTORY)
    result = containerd.execute(*command, PROGRAM, "doctor", "--json", *arguments)
    assert result.returncode in (0, 1), result.stderr
    found: Findings = json.loads(result.stdout)["findings"]
    return found


def the(findings: Findings, check: str) -> dict[str, str]:
    (finding,) = [each for each in findings if each["check"] == check]
    return finding


@pytest.fixture
def key(keys: dict[str, KeyPair]) -> Path:
    return keys["rsa2048"].private


def test_a_content_store_that_is_not_there(key: Path, tmp_path: Path) -> None:
    with Containerd(tmp_path, key, configuration=ELSEWHERE) as containerd:
        finding = the(examine(containerd), "store")
    assert (finding["level"], finding["text"].startswith("the directory /nowhere/")) == ("error", True)
    assert "--content-store" in finding["remedy"]


def test_no_keyprovider_file(key: Path, tmp_path: Path) -> None:
    """containerd's default configuration names it, and need not have it."""
    with Containerd(tmp_path, key) as containerd:
        finding = the(examine(containerd), "keyproviders")
    assert finding["subject"] == f"keyproviders {PROVIDERS}"
    assert (finding["level"], finding["text"]) == ("note", "there is no such file, so no keyprovider is used")


@pytest.mark.parametrize("content", ["", '{"key-providers": {}}', '{"key-providers": {]}', '{"key-provider": {}}'])
def test_a_keyprovider_file_that_is_named(content: str, key: Path, tmp_path: Path) -> None:
    """It is absent, has no provider, is malformed, or has a member that nobody knows."""
    named = ELSEWHERE.replace('"--content-store", "/nowhere"', '"--keyprovider-config", "/run/providers.conf"')
    with Containerd(tmp_path, key, configuration=named) as containerd:
        put = 'printf %s "$1" >/run/providers.conf; chmod 600 /run/providers.conf'
        if content:
            assert containerd.execute("sh", "-c", put, "sh", content).returncode == 0
        found = [each for each in examine(containerd) if each["check"] == "keyproviders"]
    shown = [(each["level"], each["text"].partition(":")[0]) for each in found]
    assert (
        shown
        == {
            "": [("error", "there is no such file, but --keyprovider-config names it")],
            '{"key-providers": {}}': [("ok", "no keyprovider is configured")],
            '{"key-providers": {]}': [("error", "it cannot be read, so no keyprovider is used")],
            '{"key-provider": {}}': [
                ("warning", "the field 'key-provider' is ignored"),
                ("ok", "no keyprovider is configured"),
            ],
        }[content]
    )


def test_keyproviders_that_others_could_change_or_hear(key: Path, tmp_path: Path) -> None:
    """A server of ours without TLS, at an address that is not of this machine alone; the file is of somebody else."""
    command = ["keyprovider", "serve", "--provider", "local", "--key", str(write_key(tmp_path / "layers"))]
    with (
        Containerd(tmp_path, key) as containerd,
        subprocess.Popen([PROGRAM, *command, "--listen", "0.0.0.0:0", "--insecure"], stderr=subprocess.PIPE) as server,
    ):
        try:
            assert server.stderr
            port = next(match[1] for match in map(LISTENS.search, server.stderr) if match).decode()
            entries = {
                "clear": {"grpc": f"0.0.0.0:{port}"},
                "misspelled": {"grcp": "127.0.0.1:1"},
                "gone": {"cmd": {"path": "/nowhere/provider"}},
            }
            text = shlex.quote(json.dumps({"key-providers": entries}))
            put = f"printf %s {text} >{PROVIDERS}; chmod 666 {PROVIDERS}; chown 65534 {PROVIDERS}"
            assert containerd.execute("sh", "-c", put).returncode == 0
            found = {each["text"]: each for each in examine(containerd) if each["check"] == "keyproviders"}
        finally:
            server.kill()
    by_remedy = {each["remedy"]: each for each in found.values()}
    assert by_remedy[f"chmod 600 {PROVIDERS}"]["level"] == "error"
    assert by_remedy[f"chown root {PROVIDERS}"]["level"] == "error"
    assert by_remedy["add grpc-tls to its entry"]["level"] == "warning"
    assert by_remedy["correct its entry"]["subject"] == "keyprovider misspelled"
    assert any("'/nowhere/provider' does not exist" in text for text in found)


def test_an_image_whose_key_a_provider_has(plain: dict[str, Layout], tmp_path: Path) -> None:
    config, layer_key = tmp_path / "providers.conf", write_key(tmp_path / "layers")
    config.write_text(json.dumps({"key-providers": {"node": {"native": "local", "key": str(layer_key)}}}))
    layout = tmp_path / "encrypted"
    command = [PROGRAM, "image", "encrypt", "--recipient", "provider:node", "--keyprovider-config", str(config)]
    source = f"oci:{plain[images.GZIP].directory}"
    subprocess.run([*command, source, f"oci:{layout}:{images.NAME}"], check=True, timeout=120)
    (tmp_path / "node").mkdir()
    with Containerd(tmp_path / "node") as containerd:
        assert containerd.import_image(Layout(layout), "--no-unpack").returncode == 0
        put = f"install -m 600 {shlex.quote(str(config))} {PROVIDERS}"
        assert containerd.execute("sh", "-c", put).returncode == 0
        findings = examine(containerd, IMAGE)
        opened = [each["text"] for each in findings if each["check"] == "image"]
        assert opened
        assert all("opens, and its HMAC is correct" in text for text in opened), opened
        layer_key.write_bytes(bytes(32))
        findings = examine(containerd, IMAGE)
    failed = [each for each in findings if each["check"] == "image"]
    assert {each["level"] for each in failed} == {"error"}
    assert all("the keyprovider 'node'" in each["text"] for each in failed), failed


def test_the_agent(key: Path, tmp_path: Path) -> None:
    """None, one that serves, and one that sends clients away."""

    def state() -> tuple[str, str]:
        """Look at the agents of this user; containerd's are in a /run of its own."""
        environment = {**os.environ, "XDG_RUNTIME_DIR": str(place.directory)}
        command = [PROGRAM, "doctor", "--json", "--containerd-config", str(tmp_path / "absent.toml")]
        apart = [
            "unshare",
            "--mount",
            "sh",
            "-c",
            'mkdir -p /run/ctd-decoder; mount -t tmpfs x /run/ctd-decoder; exec "$@"',
        ]
        result = subprocess.run(
            [*apart, "sh", *command], capture_output=True, text=True, timeout=120, check=False, env=environment
        )
        finding = the(json.loads(result.stdout)["findings"], "agent")
        return finding["level"], finding["text"]

    with Place() as place:
        assert state() == ("note", "none is running: the first layer of an image starts one")
        with Agent(place) as agent:
            assert works(place)
            assert state() == ("ok", f"process {agent.process.pid} has served 1 layers")
            confined = ["prlimit", "--nofile=500", place.client]
            for _ in range(2):
                subprocess.run([*confined], stdin=subprocess.DEVNULL, capture_output=True, timeout=60, check=False)
            level, text = state()
            assert level == "warning"
            assert "has served 1 layers; clients that decrypted without it: " in text


_SWITCH = "CTD_DECODER_AGENT=off"


@pytest.mark.parametrize(
    ("configuration", "by"),
    [
        (ELSEWHERE.replace('"--content-store", "/nowhere"', '"--no-agent"'), "--no-agent in the args"),
        (ELSEWHERE.replace("args =", f'env = ["{_SWITCH}"]\nargs ='), f"{_SWITCH} in the environment of containerd or"),
        (CONFIGURATION, f"{_SWITCH} in /etc/ctd-decoder/agent.env"),
    ],
    ids=["option", "environment", "file"],
)
def test_the_agent_is_switched_off(configuration: str, by: str, key: Path, tmp_path: Path) -> None:
    with Containerd(tmp_path, key, configuration=configuration) as containerd:
        put = f"mkdir -p /etc/ctd-decoder && echo {_SWITCH if 'agent.env' in by else ''} >/etc/ctd-decoder/agent.env"
        assert containerd.execute("sh", "-c", put).returncode == 0
        finding = the(examine(containerd), "agent")
    assert finding["level"] == "note"
    assert finding["text"].startswith(f"it is switched off by {by}")


@pytest.mark.parametrize("arguments", [["--wrong"], ["image", "other"], ["--namespace"]])
def test_usage(arguments: list[str]) -> None:
    result = subprocess.run([PROGRAM, "doctor", *arguments], capture_output=True, text=True, timeout=60, check=False)
    assert (result.returncode, result.stdout) == (2, "")
    assert "ctd-decoder: error: " in result.stderr
