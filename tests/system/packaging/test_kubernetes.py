"""The manifests, rendered and checked against Kubernetes' schemas, and the program that installs on nodes."""

from __future__ import annotations

import copy
import json
import sys
from pathlib import Path
from typing import Any

import kubernetes_validate  # type: ignore[import-untyped]
import pytest

from tests.support.kubernetes import MANIFESTS, Objects, pod_of, render, run
from tests.support.mounted_secrets import Volume

INSTALL = MANIFESTS / "install_on_node.py"
OLDEST = "1.30"  # the first that has lifecycle.preStop.sleep without a feature gate
# What `kubectl apply -k` is given, and the components that may be added to it.
APPLIED = (
    ("node", ()),
    ("node", ("node-files", "node-drop-in")),
    ("node", ("node-files", "node-drop-in", "node-removal")),
    ("keyprovider", ()),
    ("keyprovider-openbao", ()),
)


def the(objects: Objects, kind: str) -> dict[str, Any]:
    (found,) = [item for item in objects if item["kind"] == kind]
    return found


def containers_of(pod: dict[str, Any]) -> list[dict[str, Any]]:
    return [*pod.get("initContainers", []), *pod["containers"]]


# -- the manifests


@pytest.mark.parametrize("version", [OLDEST, kubernetes_validate.latest_version()])
@pytest.mark.parametrize(("base", "components"), APPLIED)
def test_they_are_what_the_schemas_say(base: str, components: tuple[str, ...], version: str, tmp_path: Path) -> None:
    objects = render(tmp_path, base, components)
    assert {"Namespace"} < {item["kind"] for item in objects}
    for item in objects:
        kubernetes_validate.validate(item, version, strict=True)


@pytest.mark.parametrize("version", [OLDEST, kubernetes_validate.latest_version()])
def test_the_schemas_find_what_is_misspelt(version: str, tmp_path: Path) -> None:
    deployment = the(render(tmp_path, "keyprovider"), "Deployment")
    for path, value in (
        (("spec", "replica"), 2),
        (("spec", "template", "spec", "runAsNonRoot"), True),
        (("spec", "template", "spec", "containers", 0, "securityContext", "readOnlyRootFileSystem"), True),
        (("spec", "template", "spec", "containers", 0, "readinessProbe", "tcpSocket", "prot"), 1),
        (("spec", "template", "spec", "volumes", 0, "secret", "defaultMode"), "0440"),
    ):
        changed = copy.deepcopy(deployment)
        place: Any = changed
        for step in path[:-1]:
            place = place[step]
        place[path[-1]] = value
        with pytest.raises(kubernetes_validate.ValidationError):
            kubernetes_validate.validate(changed, version, strict=True)


@pytest.mark.parametrize(("base", "components"), APPLIED)
def test_an_image_is_put_in_the_place_of_the_name(base: str, components: tuple[str, ...], tmp_path: Path) -> None:
    chosen = [{"name": "ctd-decoder", "newName": "registry.example/ctd-decoder", "newTag": "1.2.3"}]
    pod = pod_of(render(tmp_path, base, components, images=chosen))
    assert {container["image"] for container in containers_of(pod)} == {"registry.example/ctd-decoder:1.2.3"}


@pytest.mark.parametrize("base", ["keyprovider", "keyprovider-openbao"])
def test_the_server_needs_no_right_at_all(base: str, tmp_path: Path) -> None:
    """The Pod Security Standard "restricted", which its namespace enforces, and no token but the one that it uses."""
    objects = render(tmp_path, base)
    assert the(objects, "Namespace")["metadata"]["labels"]["pod-security.kubernetes.io/enforce"] == "restricted"
    pod = pod_of(objects)
    assert pod["securityContext"]["runAsNonRoot"] is True
    assert pod["securityContext"]["seccompProfile"] == {"type": "RuntimeDefault"}
    assert pod["automountServiceAccountToken"] is False
    assert {kind for volume in pod["volumes"] for kind in volume if kind != "name"} <= {"secret", "projected"}
    for container in containers_of(pod):
        assert_confined(container)


@pytest.mark.parametrize(("base", "components"), [item for item in APPLIED if item[0] == "node"])
def test_the_installer_has_the_directories_that_it_writes_to_and_nothing_else(
    base: str, components: tuple[str, ...], tmp_path: Path
) -> None:
    pod = pod_of(render(tmp_path, base, components))
    expected = {"/opt/containerd"}
    if "node-files" in components:
        expected |= {"/etc/containerd/ocicrypt", "/etc/containerd/conf.d"}
    assert {volume["hostPath"]["path"] for volume in pod["volumes"] if "hostPath" in volume} == expected
    assert not {"hostNetwork", "hostPID", "hostIPC"} & pod.keys()
    install, wait = containers_of(pod)
    assert_confined(install)
    assert_confined(wait)
    assert (wait["securityContext"]["runAsNonRoot"], "volumeMounts" in wait) == (True, False)


def assert_confined(container: dict[str, Any]) -> None:
    context = container["securityContext"]
    assert context["capabilities"] == {"drop": ["ALL"]}
    assert (context["allowPrivilegeEscalation"], context["readOnlyRootFilesystem"]) == (False, True)
    assert "privileged" not in context


@pytest.mark.parametrize("base", ["keyprovider", "keyprovider-openbao"])
def test_the_objects_of_the_server_belong_together(base: str, tmp_path: Path) -> None:
    objects = render(tmp_path, base)
    deployment, service, policy = (the(objects, kind) for kind in ("Deployment", "Service", "NetworkPolicy"))
    labels = deployment["spec"]["template"]["metadata"]["labels"]
    assert deployment["spec"]["selector"]["matchLabels"] == labels
    assert service["spec"]["selector"] == labels
    assert policy["spec"]["podSelector"]["matchLabels"] == labels
    assert the(objects, "PodDisruptionBudget")["spec"]["selector"]["matchLabels"] == labels
    (container,) = deployment["spec"]["template"]["spec"]["containers"]
    (port,) = container["ports"]
    assert f"--listen=:{port['containerPort']}" in container["args"]
    assert {service["spec"]["ports"][0]["targetPort"], policy["spec"]["ingress"][0]["ports"][0]["port"]} == {"grpc"}
    assert container["readinessProbe"]["tcpSocket"]["port"] == port["name"] == "grpc"
    assert (
        deployment["spec"]["template"]["spec"]["serviceAccountName"]
        == the(objects, "ServiceAccount")["metadata"]["name"]
    )
    namespaces = {item["metadata"].get("namespace") for item in objects if item["kind"] != "Namespace"}
    assert namespaces == {the(objects, "Namespace")["metadata"]["name"]}
    mounted = tuple(mount["mountPath"] for mount in container["volumeMounts"])
    files = [argument.partition("=/")[2] for argument in container["args"] if "=/" in argument]
    assert len(files) >= 4
    assert all(f"/{file}".startswith(mounted) for file in files)


# -- the program that installs


@pytest.fixture
def tree(tmp_path: Path) -> Path:
    """A tree that can be installed: its program is a script."""
    return write_tree(tmp_path / "tree", "first")


def write_tree(directory: Path, text: str, program: str = "#!/bin/sh\n") -> Path:
    for name in ("bin", "lib"):
        (directory / name).mkdir(parents=True)
    (directory / "lib/module").write_text(text)
    (directory / "bin/ctd-decoder").write_text(program)
    (directory / "bin/ctd-decoder").chmod(0o755)
    (directory / "bin/python3").symlink_to("ctd-decoder")
    (directory / "bin/client").symlink_to("ctd-decoder")
    return directory


def install(tree: Path, node: Path, *arguments: str | Path, verb: str = "install", expect: int = 0) -> str:
    node.mkdir(exist_ok=True)
    return run(sys.executable, "-I", INSTALL, verb, "--tree", tree, "--into", node, *arguments, expect=expect)


def installed(node: Path) -> str:
    """Return what the installed program's tree holds."""
    link = node / "bin/ctd-decoder"
    assert link.readlink().name == "client"
    return link.resolve().parent.with_name("lib").joinpath("module").read_text()


def files(directory: Path) -> dict[str, str]:
    return {str(path.relative_to(directory)): path.read_text() for path in directory.rglob("*") if path.is_file()}


def test_the_tree_before_stays_for_decoders_that_run(tree: Path, tmp_path: Path) -> None:
    node = tmp_path / "node"
    for number, text in enumerate(("first", "second", "third")):
        install(tree if not number else write_tree(tmp_path / text, text), node)
        assert installed(node) == text
        install(tmp_path / text if number else tree, node)  # the pod starts again
        assert len(list((node / "ctd-decoder").iterdir())) == min(number + 1, 2)
    assert {path.read_text() for path in node.glob("ctd-decoder/*/lib/module")} == {"second", "third"}


def test_a_damaged_or_unfinished_tree_is_replaced(tree: Path, tmp_path: Path) -> None:
    node = tmp_path / "node"
    install(tree, node)
    (module,) = node.glob("ctd-decoder/*/lib/module")
    module.write_text("damaged")
    (node / "ctd-decoder/.partial-1").mkdir()
    install(tree, node)
    assert installed(node) == "first"
    assert len(list((node / "ctd-decoder").iterdir())) == 1


def test_a_program_that_does_not_start_is_not_installed(tree: Path, tmp_path: Path) -> None:
    node = tmp_path / "node"
    install(tree, node)
    broken = write_tree(tmp_path / "broken", "broken", "#!/bin/sh\necho no such library >&2\nexit 127\n")
    assert install(broken, node, expect=1) == (
        "install-on-node: error: the copied program does not start: no such library\n"
    )
    assert installed(node) == "first"


def test_a_program_of_somebody_else_stays(tree: Path, tmp_path: Path) -> None:
    node = tmp_path / "node"
    (node / "bin").mkdir(parents=True)
    (node / "bin/ctd-decoder").write_text("imgcrypt's")
    for verb in ("install", "remove"):
        assert "is there already and is not of this installation" in install(tree, node, verb=verb, expect=1)
    assert files(node) == {"bin/ctd-decoder": "imgcrypt's"}


def test_files_come_change_and_go_and_others_stay(tree: Path, tmp_path: Path) -> None:
    node, place = tmp_path / "node", tmp_path / "ocicrypt"
    secret = Volume(tmp_path / "secret")
    (place / "keys").mkdir(parents=True)
    (place / "keys/mine.pem").write_text("mine")
    arguments = ("--files", secret.directory, place)
    secret.write({"keys/a.pem": b"a", "conf": b"{}"})
    install(tree, node, *arguments)
    assert {path.stat().st_mode & 0o777 for path in place.rglob("[ac]*") if path.is_file()} == {0o600}
    secret.write({"keys/b.pem": b"b", "conf": b"changed"})
    install(tree, node, *arguments)
    listed = json.dumps(["conf", "keys/b.pem"])
    expected = {"keys/mine.pem": "mine", "keys/b.pem": "b", "conf": "changed", ".ctd-decoder-files": listed}
    assert files(place) == expected
    secret.write({"keys/mine.pem": b"another"})
    assert "mine.pem is there already and is not of this installation" in install(tree, node, *arguments, expect=1)
    assert files(place) == expected
    install(tree, node, *arguments, verb="remove")
    assert files(place) == {"keys/mine.pem": "mine"}
    assert files(node) == {}
