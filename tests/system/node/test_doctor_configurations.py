"""`ctd-decoder doctor` and the configuration of a containerd that runs with it: what it says is what a pull does."""

from __future__ import annotations

import json
import os
import shutil
from pathlib import Path
from typing import TYPE_CHECKING, NamedTuple

import pytest

from tests.support.image import images
from tests.support.node import rancher
from tests.support.node.containerd import CONFIGURATION, KEYS_DIRECTORY, Containerd
from tests.support.node.roots import SUITES, Suite
from tests.support.program.processes import PROGRAM

if TYPE_CHECKING:
    from tests.support.image.images import Layout
    from tests.support.keys.keypairs import Encrypt, KeyPair

OLD, MIDDLE, NEW = SUITES
_KEYS = f'["--decryption-keys-path", "{KEYS_DIRECTORY}"]'
_OCI = "application/vnd.oci.image.layer.v1.tar"
_CRI = {OLD: "io.containerd.grpc.v1.cri", MIDDLE: "io.containerd.grpc.v1.cri", NEW: "io.containerd.cri.v1.images"}


def processors(
    *accepts: str, name: str = "tar.gzip", returns: str = images.GZIP, path: str = "ctd-decoder", args: str = _KEYS
) -> str:
    """Write one stream processor, as administrators add it."""
    return (
        f'[stream_processors."io.containerd.ocicrypt.decoder.v1.{name}"]\n'
        f"accepts = {json.dumps([f'{_OCI}{each}' for each in accepts or ('+gzip+encrypted',)])}\n"
        f'returns = "{returns}"\npath = {json.dumps(path)}\nargs = {args}\n'
    )


class State(NamedTuple):
    """A containerd and its configuration.

    Attributes:
        suite: whose containerd it is.
        added: what is added to its configuration.
        check: the check that finds something.
        level: the level of the finding.
        text: a part of its text.
        opens: whether this containerd unpacks an encrypted image.
    """

    suite: Suite
    added: str
    check: str
    level: str
    text: str
    opens: bool


_EROFS = '[plugins."io.containerd.service.v1.diff-service"]\ndefault = ["erofs", "walking"]\n'
_VERIFIED = f'{_KEYS[:-1]}, "--release", "verified"]'
_BOTH_VERIFIED = processors(args=_VERIFIED) + processors("+encrypted", name="tar", returns=images.TAR, args=_VERIFIED)
_CRI_PLUGIN = '[plugins."{}"{}]\n{}\n'
STATES = {
    "zstd with the defaults": State(NEW, "", "processors", "note", f"{_OCI}+zstd+encrypted are rejected", True),
    "zstd is not added": State(OLD, processors(), "processors", "warning", f"{_OCI}+zstd+encrypted are rejected", True),
    "gzip is not taken": State(
        MIDDLE, processors("+other+encrypted"), "processors", "error", f"{_OCI}+gzip+encrypted are rejected", False
    ),
    "none for encrypted layers": State(
        OLD,
        processors("+gzip") + processors("", name="tar", returns=images.TAR),
        "processors",
        "error",
        "none takes encrypted layers",
        False,
    ),
    "one returns another type": State(
        NEW, processors(returns="text/plain"), "processors", "error", "not the media type of a plain", False
    ),
    "an option is misspelled": State(
        MIDDLE,
        processors(args=_KEYS.replace("keys-path", "key-path")),
        "processors",
        "error",
        "unknown option '--decryption-key-path'",
        False,
    ),
    "no keys directory": State(NEW, processors(args="[]"), "processors", "note", "has no keys directory", False),
    "an ID that clients do not know": State(
        OLD,
        processors("+zstd+encrypted", name="tar.zstd"),
        "processors",
        "warning",
        "decoder.v1.tar.zstd, an ID for which clients send no payload",
        True,
    ),
    "both take everything": State(
        NEW,
        processors("+gzip+encrypted", "+zstd+encrypted").replace(
            'encrypted"]', 'encrypted", "application/vnd.docker.image.rootfs.diff.tar.gzip+encrypted"]'
        ),
        "processors",
        "ok",
        "both IDs that clients know take all encrypted layers",
        True,
    ),
    "erofs, streaming": State(NEW, _EROFS, "differ", "warning", "mkfs.erofs may hang forever", True),
    "erofs, verified": State(
        NEW, _EROFS + _BOTH_VERIFIED, "differ", "ok", "erofs gets layers once they are verified", True
    ),
    "the version of the file": State(MIDDLE, "", "configuration", "ok", "version 2", True),
    "no such program": State(
        OLD, processors(path="/nowhere/ctd-decoder"), "program", "error", "there is no such program", False
    ),
    "not on the path": State(
        NEW, processors(path="ctd-decoder-2"), "program", "error", "cannot be started: containerd looks in", False
    ),
    "another program": State(
        MIDDLE, processors(path="/bin/true", args="[]"), "program", "error", "/bin/true is another program", False
    ),
    "a directory that is no content store": State(
        NEW,
        processors(args='["--content-store", "/nowhere"]'),
        "store",
        "error",
        "the directory /nowhere/io.containerd.content.v1.content/blobs/sha256 does not exist",
        False,
    ),
    "a payload is required": State(
        OLD,
        processors(args=f'{_KEYS[:-1]}, "--require-payload"]')
        + processors("+encrypted", name="tar", returns=images.TAR, args=f'{_KEYS[:-1]}, "--require-payload"]'),
        "store",
        "note",
        "--require-payload is set",
        False,
    ),
    "Kubernetes without keys": State(
        OLD, _CRI_PLUGIN.format(_CRI[OLD], ".image_decryption", 'key_model = ""'), "kubernetes", "error", "", True
    ),
    "Kubernetes without keys, containerd 2": State(
        NEW, _CRI_PLUGIN.format(_CRI[NEW], ".image_decryption", 'key_model = ""'), "kubernetes", "error", "", True
    ),
    "Kubernetes, disabled": State(
        MIDDLE, f'disabled_plugins = ["{_CRI[MIDDLE]}"]\n', "kubernetes", "ok", "the plugin is disabled", True
    ),
    "Kubernetes, transfer service": State(NEW, "", "kubernetes", "note", "through the transfer service", True),
    "Kubernetes, its own pull": State(
        NEW,
        _CRI_PLUGIN.format(_CRI[NEW], "", "use_local_image_pull = true"),
        "kubernetes",
        "ok",
        "decrypted with the keys of this node",
        True,
    ),
    "Kubernetes, containerd 1": State(MIDDLE, "", "kubernetes", "ok", "decrypted with the keys of this node", True),
}


@pytest.fixture(scope="module")
def encrypted(plain: dict[str, Layout], encrypt: Encrypt) -> Layout:
    return encrypt(plain[images.GZIP], ["rsa2048"])


@pytest.fixture
def key(keys: dict[str, KeyPair]) -> Path:
    return keys["rsa2048"].private


def configuration(suite: Suite, added: str) -> str:
    """Write a configuration file of the version that a containerd has: what is added stands first if it is no table."""
    places = CONFIGURATION.replace("version = 2", "version = 3") if suite is NEW else CONFIGURATION
    return places + added if added.startswith("[") else added + places


def examine(containerd: Containerd, check: str, *arguments: str) -> list[dict[str, str]]:
    """Return what one check finds; the exit status must be what all findings say."""
    containerd.execute("chmod", "700", KEYS_DIRECTORY)
    result = containerd.execute(PROGRAM, "doctor", "--json", *arguments)
    assert result.returncode in (0, 1), result.stderr
    findings = json.loads(result.stdout)["findings"]
    assert result.returncode == any(each["level"] == "error" for each in findings), findings
    return [each for each in findings if each["check"] == check]


@pytest.mark.parametrize("name", STATES)
def test_a_configuration(name: str, encrypted: Layout, key: Path, tmp_path: Path) -> None:
    state = STATES[name]
    written = configuration(state.suite, state.added)
    with Containerd(tmp_path, key, programs=state.suite.programs, configuration=written) as containerd:
        findings = examine(containerd, state.check)
        assert any(each["level"] == state.level and state.text in each["text"] for each in findings), findings
        assert all(each["remedy"] for each in findings if each["level"] in ("warning", "error")), findings
        assert (containerd.import_image(encrypted).returncode == 0) == state.opens


def test_the_program_of_an_environment_whose_python_is_gone(encrypted: Layout, key: Path, tmp_path: Path) -> None:
    """An upgrade of Python leaves such a program; the kernel says that it does not exist."""
    program = "#!/opt/gone/bin/python3\nfrom decoder.__main__ import main\nmain()\n"
    with Containerd(tmp_path, key, ctd_decoder=program) as containerd:
        (finding,) = examine(containerd, "program")
        assert (finding["level"], "does not start: No such file" in finding["text"]) == ("error", True), finding
        assert containerd.import_image(encrypted).returncode != 0


def test_what_an_image_needs_is_not_there(encrypted: Layout, key: Path, tmp_path: Path) -> None:
    """Each layer of the image has a finding of its own."""
    states = {
        "no stream processor takes": processors("+other+encrypted"),
        "/nowhere/ctd-decoder cannot be started": processors(path="/nowhere/ctd-decoder"),
        "cannot be read: No such file or directory": "",
    }
    for number, (text, added) in enumerate(states.items()):
        (tmp_path / str(number)).mkdir()
        with Containerd(tmp_path / str(number), key, configuration=configuration(OLD, added)) as containerd:
            assert containerd.import_image(encrypted, "--no-unpack").returncode == 0
            for layer in encrypted.layers:
                if not added:
                    (containerd.store / layer["digest"].partition(":")[2]).unlink()
            findings = examine(containerd, "image", f"image:{images.NAME}")
        assert len(findings) == len(encrypted.layers)
        assert all(each["level"] == "error" and text in each["text"] for each in findings), findings
        assert all(each["remedy"] for each in findings)


def test_a_file_that_is_broken_while_containerd_runs(key: Path, tmp_path: Path) -> None:
    """What it says is unknown then: containerd still runs with what it read, and does not start again."""
    with Containerd(tmp_path, key) as containerd:
        (tmp_path / "config.toml").write_text("version = 2\nroot = [\n")
        (finding,) = examine(containerd, "configuration")
        assert (finding["level"], "cannot be read: it is not TOML: " in finding["text"]) == ("error", True), finding
        (finding,) = examine(containerd, "processors")
        assert (finding["level"], finding["text"].startswith("they are unknown")) == ("warning", True), finding


def test_a_configuration_that_imports_a_broken_file(key: Path, tmp_path: Path) -> None:
    """Only containerd knows what it imports: it says so, and the file alone is looked at."""
    with Containerd(tmp_path, key) as containerd:
        (tmp_path / "more.toml").write_text("[")
        text = f'imports = ["{tmp_path}/more.toml"]\n{CONFIGURATION}{processors()}'
        (tmp_path / "config.toml").write_text(text)
        (finding,) = examine(containerd, "configuration")
        assert finding["level"] == "error"
        assert "containerd cannot show its configuration" in finding["text"]
        assert finding["remedy"] == f"run `/usr/bin/containerd --config {tmp_path}/config.toml config dump` to see why"
        (finding,) = [each for each in examine(containerd, "processors") if each["level"] == "error"]
        assert finding["text"].startswith("there is none with the ID io.containerd.ocicrypt.decoder.v1.tar,")
        assert finding["remedy"]


def _copy_programs(directory: Path, suite: Suite) -> Path:
    """Copy the programs of a containerd, to be changed."""
    directory.mkdir()
    for name in ("containerd", "containerd-shim-runc-v2", "ctr"):
        shutil.copy((suite.programs or Path("/usr/bin")) / name, directory)
    return directory


def test_a_containerd_that_was_not_installed_whole(key: Path, tmp_path: Path) -> None:
    """The one that runs is from before the upgrade."""
    programs = _copy_programs(tmp_path / "programs", OLD)
    with Containerd(tmp_path, key, programs=programs) as containerd:
        whole = (programs / "containerd").read_bytes()
        (programs / "containerd").unlink()
        (programs / "containerd").write_bytes(whole[:4096])
        (programs / "containerd").chmod(0o755)
        (finding,) = examine(containerd, "containerd")
    assert (finding["level"], "does not print its version" in finding["text"]) == ("error", True), finding
    assert finding["remedy"] == f"run {programs}/containerd --version to see why"


def test_a_containerd_whose_own_pulls_are_not_decrypted(key: Path, tmp_path: Path) -> None:
    """The one of Debian has the correction; with the version of the one before it is taken for that one."""
    programs = _copy_programs(tmp_path / "programs", NEW)
    whole = (programs / "containerd").read_bytes()
    assert b"2.1.9+unknown" in whole
    (programs / "containerd").write_bytes(whole.replace(b"2.1.9+unknown", b"2.1.6+unknown"))
    written = configuration(NEW, _CRI_PLUGIN.format(_CRI[NEW], "", "use_local_image_pull = true"))
    with Containerd(tmp_path, key, programs=programs, configuration=written) as containerd:
        (finding,) = examine(containerd, "kubernetes")
    assert (finding["level"], "2.1.6 does not ask for decryption" in finding["text"]) == ("warning", True), finding


def test_several_containerds(key: Path, tmp_path: Path) -> None:
    with (
        Containerd(tmp_path, key) as containerd,
        rancher.running("k3s", containerd, tmp_path / "log", None, os.environ["PATH"], 2),
    ):
        found = examine(containerd, "containerd")
        notes = [each for each in found if each["level"] == "note"]
        assert [each["text"].startswith("others run here, too (1)") for each in notes] == [True], found
        file = "/var/lib/rancher/k3s/agent/etc/containerd/config.toml"
        (finding,) = examine(containerd, "containerd", "--containerd-config", file)
        assert finding["text"].endswith("; k3s)"), finding
        (finding,) = examine(containerd, "configuration", "--containerd-config", file)
        assert finding["text"] == f"'{file}', version 2"


def test_the_content_store_with_an_image(encrypted: Layout, key: Path, tmp_path: Path) -> None:
    with Containerd(tmp_path, key) as containerd:
        (finding,) = examine(containerd, "store")
        assert (finding["level"], finding["text"].endswith("is created with the first image")) == ("ok", True), finding
        assert containerd.import_image(encrypted).returncode == 0
        (finding,) = examine(containerd, "store")
    assert (finding["level"], finding["text"][:32]) == ("ok", "layers that come without a paylo"), finding


def test_somebody_without_rights(key: Path, tmp_path: Path) -> None:
    """Nothing of root's containerd can be read, and each finding says who can."""
    user = ["setpriv", "--reuid", "65534", "--regid", "65534", "--clear-groups", "env", "HOME=/"]
    with Containerd(tmp_path, key) as containerd:
        containerd.execute("sh", "-c", f"chmod 700 {KEYS_DIRECTORY} /run/private/root; cp {tmp_path}/config.toml /run")
        command = [*user, PROGRAM, "doctor", "--json", "--containerd-config"]
        (unreadable, readable) = (
            json.loads(containerd.execute(*command, file).stdout)["findings"]
            for file in (f"{tmp_path}/config.toml", "/run/config.toml")
        )
    for findings, check, text in (
        (unreadable, "configuration", "cannot be read: Permission denied"),
        (unreadable, "keys", "Permission denied"),
        (readable, "keys", "Permission denied"),
        (readable, "store", "/run/private/root/io.containerd.content.v1.content/blobs/sha256: Permission denied"),
    ):
        (finding,) = [each for each in findings if each["check"] == check and each["level"] == "error"]
        assert text in finding["text"]
        assert finding["remedy"] == "run the doctor as root"
    (finding,) = [each for each in unreadable if each["check"] == "store"]
    assert (finding["level"], finding["text"][:20]) == ("warning", "its place is unknown")
