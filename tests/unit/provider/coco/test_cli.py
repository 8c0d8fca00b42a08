"""`ctd-decoder coco initdata`, and `ctd-decoder keyprovider attestation-agent register` into a broker's local store."""

from __future__ import annotations

import gzip
import tomllib
from base64 import b64decode
from pathlib import Path

import pytest

from decoder.keywrap.kid import ResourceId, parse_kid
from decoder.provider.errors import ProviderError
from decoder.provider.services.coco import repository
from tests.support.image.command import Ended, decoded
from tests.support.network.loopback import Authority
from tests.support.program.processes import run_program

KID = "kbs:///default/image_key/nginx"
NESTED, FLAT = "default/image_key/nginx", r"default\x2Fimage_key\x2Fnginx"
KBS = "https://kbs.example:8080"


def run(*words: str | Path) -> Ended:
    return decoded(run_program(list(map(str, words)), 60))


def register(*words: str | Path) -> Ended:
    return run("keyprovider", "attestation-agent", "register", "--keyid", KID, *words)


def read(text: str) -> tuple[dict[str, object], dict[str, object], dict[str, object]]:
    """Read initdata as a guest does: the whole, and the configurations of its attestation agent and data hub."""
    whole = tomllib.loads(text)
    assert whole["data"].keys() == {"aa.toml", "cdh.toml"}
    return whole, tomllib.loads(whole["data"]["aa.toml"]), tomllib.loads(whole["data"]["cdh.toml"])


@pytest.fixture
def key(tmp_path: Path) -> Path:
    file = tmp_path / "image_key"
    file.write_bytes(bytes(range(32)))
    return file


# -- initdata


def test_the_default_is_what_kata_reads() -> None:
    done = run("coco", "initdata", "--kbs", KBS)
    assert (done.status, done.errors) == (0, "")
    text = gzip.decompress(b64decode(done.output.strip(), validate=True)).decode()
    whole, agent, hub = read(text)
    assert (whole["algorithm"], whole["version"]) == ("sha256", "0.1.1")
    assert agent == {"token_configs": {"coco_as": {"url": KBS}, "kbs": {"url": KBS}}}
    assert hub["kbc"] == {"name": "cc_kbc", "url": KBS}
    assert (hub["socket"], hub["credentials"]) == ("unix:///run/confidential-containers/cdh.sock", [])
    assert run("coco", "initdata", "--kbs", KBS).output == done.output  # it is measured


def test_other_forms() -> None:
    plain = run("coco", "initdata", "--kbs", KBS, "--format", "toml", "--algorithm", "sha384").output
    assert read(plain)[0]["algorithm"] == "sha384"
    encoded = run("coco", "initdata", "--kbs", KBS, "--format", "base64", "--algorithm", "sha384").output
    assert b64decode(encoded.strip(), validate=True).decode() == plain


def test_certificates_of_the_broker(tmp_path: Path) -> None:
    authority = Authority(tmp_path)
    certificate = authority.file.read_text()
    (tmp_path / "ca.pem").write_text(f"what ''' \"\"\" openssl prints\n{certificate}{certificate}")
    done = run("coco", "initdata", "--kbs", KBS, "--ca", tmp_path / "ca.pem", "--format", "toml")
    _, agent, hub = read(done.output)
    assert agent["token_configs"] == {"coco_as": {"url": KBS}, "kbs": {"url": KBS, "cert": certificate * 2}}
    assert hub["kbc"] == {"name": "cc_kbc", "url": KBS, "kbs_cert": certificate * 2}


@pytest.mark.parametrize(
    "url", ["http://kbs.example", "kbs.example", "https://kbs.example/'''\n[x]", "https://a'b", ""]
)
def test_urls_that_are_refused(url: str) -> None:
    done = run("coco", "initdata", "--kbs", url)
    assert (done.status, done.output) == (2, "")
    assert "the option --kbs" in done.errors


def test_files_without_certificates(key: Path) -> None:
    for file, why in ((key, "does not hold certificates"), ("/missing", "No such file")):
        done = run("coco", "initdata", "--kbs", KBS, "--ca", file)
        assert (done.status, done.output) == (2, "")
        assert why in done.errors


# -- register --repository


@pytest.mark.parametrize(
    ("options", "names"),
    [((), [FLAT]), (("--layout", "nested"), [NESTED]), (("--layout", "both"), [FLAT, NESTED])],
)
def test_writes_the_store_that_a_broker_reads(
    tmp_path: Path, key: Path, options: tuple[str, ...], names: list[str]
) -> None:
    store = tmp_path / "store"
    for _ in range(2):  # again is no failure
        done = register("--keypath", key, "--repository", store, *options)
        assert (done.status, done.errors) == (0, "")
        assert done.output.splitlines() == [f"{KID} is in {store}/{name}" for name in names]
    assert sorted(str(path.relative_to(store)) for path in store.rglob("*") if path.is_file()) == sorted(names)
    for name in names:
        assert (store / name).read_bytes() == key.read_bytes()
        assert (store / name).stat().st_mode & 0o777 == 0o600
    assert repository.create(str(store), {}).key(parse_kid(KID), 1.0) == key.read_bytes()


def test_no_key_takes_the_place_of_another(tmp_path: Path, key: Path) -> None:
    register("--keypath", key, "--repository", tmp_path)
    key.write_bytes(bytes(32))
    done = register("--keypath", key, "--repository", tmp_path)
    assert (done.status, done.output) == (6, "")
    assert "holds another key, which images may need" in done.errors
    assert (tmp_path / FLAT).read_bytes() == bytes(range(32))
    (tmp_path / FLAT).unlink()
    (tmp_path / FLAT).mkdir()  # it cannot be compared
    done = register("--keypath", key, "--repository", tmp_path)
    assert (done.status, "holds another key, which images may need" in done.errors) == (6, True)


def test_makes_a_key(tmp_path: Path) -> None:
    done = register("--keypath", tmp_path / "new", "--create", "--repository", tmp_path / "store")
    assert done.status == 0
    assert (tmp_path / "store" / FLAT).read_bytes() == (tmp_path / "new").read_bytes()
    assert len((tmp_path / "new").read_bytes()) == 32


def test_what_cannot_be_registered(tmp_path: Path, key: Path) -> None:
    (tmp_path / "short").write_bytes(bytes(31))
    for status, why, words in (
        (2, "give --kbs URL or --repository DIR", ("--keypath", key)),
        (6, "No such file", ("--keypath", tmp_path / "missing", "--repository", tmp_path)),
        (6, "has 31 bytes, not 32", ("--keypath", tmp_path / "short", "--repository", tmp_path)),
        (6, "cannot be written", ("--keypath", key, "--repository", "/proc/store")),
        (2, "need the option kbs", ("--keypath", key, "--kbs-auth-key", key)),
    ):
        done = register(*words)
        assert (done.status, done.output) == (status, ""), done.errors
        assert why in done.errors
    done = run(
        "keyprovider", "attestation-agent", "register", "--keyid", "x", "--keypath", key, "--repository", tmp_path
    )
    assert (done.status, "is not a key id" in done.errors) == (6, True)


def test_a_local_store_has_resources_alone(tmp_path: Path) -> None:
    with pytest.raises(ProviderError, match="a local store only has resources of the plugin resource, and not "):
        repository.write_key(str(tmp_path), ResourceId("default/key/1", "other"), bytes(32), is_flat=True)
