"""The manifests, rendered and checked against Kubernetes' schemas."""

from __future__ import annotations

import copy
from pathlib import Path
from typing import Any

import kubernetes_validate  # type: ignore[import-untyped]
import pytest

from decoder.grants.cli import parser as grants_parser
from decoder.provider.server.clients import clientpolicy
from tests.support.kubernetes.manifests import Objects, pod_of, render
from tests.support.network.certificates import issue

OLDEST = "1.30"  # the first that has lifecycle.preStop.sleep without a feature gate
# What `kubectl apply -k` is given, and the components that may be added to it.
APPLIED = (
    ("node", ()),
    ("node", ("node-files", "node-drop-in")),
    ("node", ("node-startup-taint",)),
    ("node", ("node-files", "node-cert-manager", "node-drop-in", "node-startup-taint", "node-removal")),
    ("keyprovider", ()),
    ("keyprovider", ("keyprovider-cert-manager",)),
    ("keyprovider", ("keyprovider-client-policy",)),
    ("keyprovider-openbao", ()),
    ("grants-approver", ()),
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
        if not item["apiVersion"].startswith("cert-manager.io/"):  # which brings its own schemas
            kubernetes_validate.validate(item, version, strict=True)


@pytest.mark.parametrize("version", [OLDEST, kubernetes_validate.latest_version()])
def test_the_schemas_find_what_is_misspelt(version: str, tmp_path: Path) -> None:
    deployment = the(render(tmp_path, "keyprovider"), "Deployment")
    for path, value in (
        (("spec", "replica"), 2),
        (("spec", "template", "spec", "runAsNonRoot"), True),
        (("spec", "template", "spec", "containers", 0, "securityContext", "readOnlyRootFileSystem"), True),
        (("spec", "template", "spec", "containers", 0, "readinessProbe", "httpGet", "prot"), 1),
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


def test_the_approver_is_confined_and_remembers(tmp_path: Path) -> None:
    objects = render(tmp_path, "grants-approver")
    assert the(objects, "Namespace")["metadata"]["labels"]["pod-security.kubernetes.io/enforce"] == "restricted"
    pod = pod_of(objects)
    assert (pod["securityContext"]["runAsNonRoot"], pod["automountServiceAccountToken"]) == (True, False)
    (container,) = containers_of(pod)
    assert_confined(container)
    parsed = grants_parser().parse(container["args"][1:])
    assert parsed is not None
    assert (parsed.verb, parsed.policy) == ("approver", "/etc/grants/policy.json")
    volumes = {volume["name"]: volume for volume in pod["volumes"]}
    claim = the(objects, "PersistentVolumeClaim")["metadata"]["name"]
    assert volumes["state"]["persistentVolumeClaim"]["claimName"] == claim
    mounts = {mount["name"]: mount for mount in container["volumeMounts"]}
    assert {name for name, mount in mounts.items() if not mount.get("readOnly")} == {"state"}
    assert {mount["mountPath"] for mount in mounts.values()} == {"/etc/grants", "/secrets/owner", "/var/lib/grants"}
    assert the(objects, "Deployment")["spec"]["strategy"] == {"type": "Recreate"}  # one pod for one volume


@pytest.mark.parametrize(("base", "components"), [item for item in APPLIED if item[0] == "node"])
def test_the_installer_has_the_directories_that_it_writes_to_and_nothing_else(
    base: str, components: tuple[str, ...], tmp_path: Path
) -> None:
    pod = pod_of(render(tmp_path, base, components))
    expected = {"/opt/containerd"}
    if "node-files" in components:
        expected.add("/etc/containerd/ocicrypt")
    if "node-drop-in" in components:
        expected.add("/etc/containerd/conf.d")
    assert {volume["hostPath"]["path"] for volume in pod["volumes"] if "hostPath" in volume} == expected
    assert not {"hostNetwork", "hostPID", "hostIPC"} & pod.keys()
    *installers, wait = containers_of(pod)
    for container in (*installers, wait):
        assert_confined(container)
    # Who copies nothing is not root, and has no directory of the node.
    copies = "node-files" in components
    assert (wait["securityContext"]["runAsNonRoot"], "volumeMounts" in wait) == (not copies, copies)
    for container in installers[1:]:
        assert container["securityContext"]["runAsNonRoot"] is True
        assert [mount["name"] for mount in container["volumeMounts"]] == ["account"]


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
    grpc, metrics = container["ports"]
    assert {f"--listen=:{grpc['containerPort']}", f"--metrics=:{metrics['containerPort']}"} < set(container["args"])
    assert {service["spec"]["ports"][0]["targetPort"], policy["spec"]["ingress"][0]["ports"][0]["port"]} == {"grpc"}
    scaled = the(objects, "HorizontalPodAutoscaler")["spec"]["scaleTargetRef"]
    assert (scaled["kind"], scaled["name"]) == ("Deployment", deployment["metadata"]["name"])
    assert "replicas" not in deployment["spec"]  # each `kubectl apply` would undo what the autoscaler did
    assert grpc["name"] == "grpc"
    probes = {name: container[f"{name}Probe"]["httpGet"] for name in ("startup", "readiness", "liveness")}
    assert {probe["port"] for probe in probes.values()} == {metrics["name"]} == {"metrics"}
    assert {name: probe["path"] for name, probe in probes.items()} == {
        "startup": "/healthz", "readiness": "/readyz", "liveness": "/healthz"
    }  # fmt: skip
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


def test_the_account_may_take_the_taint_away_that_the_pod_is_told_to(tmp_path: Path) -> None:
    objects = render(tmp_path, "node", ("node-startup-taint",))
    pod = pod_of(objects)
    account, binding, role = (the(objects, kind) for kind in ("ServiceAccount", "ClusterRoleBinding", "ClusterRole"))
    assert pod["serviceAccountName"] == account["metadata"]["name"] == binding["subjects"][0]["name"]
    assert account["metadata"]["namespace"] == binding["subjects"][0]["namespace"]
    assert binding["roleRef"]["name"] == role["metadata"]["name"]
    assert role["rules"] == [{"apiGroups": [""], "resources": ["nodes"], "verbs": ["get", "patch"]}]
    policy = the(objects, "ValidatingAdmissionPolicy")
    assert the(objects, "ValidatingAdmissionPolicyBinding")["spec"]["policyName"] == policy["metadata"]["name"]
    who = f"system:serviceaccount:{account['metadata']['namespace']}:{account['metadata']['name']}"
    assert policy["spec"]["matchConditions"][0]["expression"] == f"request.userInfo.username == '{who}'"
    taint = pod["initContainers"][1]["args"][-1]
    assert f"'{taint}'" in policy["spec"]["variables"][0]["expression"]


def test_the_client_policy_is_one_and_fits_the_certificates_of_nodes(tmp_path: Path) -> None:
    objects = render(tmp_path / "server", "keyprovider", ("keyprovider-client-policy",))
    pod = pod_of(objects)
    (path,) = [text.partition("=")[2] for text in pod["containers"][0]["args"] if text.startswith("--client-policy=")]
    mounts = {mount["mountPath"]: mount["name"] for mount in pod["containers"][0]["volumeMounts"]}
    place, _, name = path.rpartition("/")
    (volume,) = [volume for volume in pod["volumes"] if volume["name"] == mounts[place]]
    stored = the(objects, "ConfigMap")
    assert stored["metadata"]["name"] == volume["configMap"]["name"]
    (tmp_path / "ca.crt").write_bytes(issue("nodes").certificate)
    assert f"{next(place for place in mounts if mounts[place] == 'tls')}/ca.crt" in stored["data"][name]
    (tmp_path / name).write_text(stored["data"][name].replace("/secrets/tls/", f"{tmp_path}/"))
    (rule,) = clientpolicy.load(str(tmp_path / name))[0].rules
    client = the(render(tmp_path / "node", "node", ("node-files", "node-cert-manager")), "Certificate")
    assert rule.clients == tuple(("uri", uri) for uri in client["spec"]["uris"])
    assert (rule.allows("unwrap", ["local://image.key"]), rule.allows("wrap", ["local://image.key"])) == (True, False)


def test_the_certificates_are_those_that_server_and_nodes_read(tmp_path: Path) -> None:
    objects = render(tmp_path / "server", "keyprovider", ("keyprovider-cert-manager",))
    certificates = {item["metadata"]["name"]: item for item in objects if item["kind"] == "Certificate"}
    issuers = {item["metadata"]["name"] for item in objects if item["kind"] == "ClusterIssuer"}
    server = certificates["keyprovider"]
    service = the(objects, "Service")["metadata"]
    assert server["spec"]["dnsNames"] == [f"{service['name']}.{service['namespace']}.svc"]
    tls = next(volume["secret"] for volume in pod_of(objects)["volumes"] if volume["name"] == "tls")
    assert (server["spec"]["secretName"], server["metadata"]["namespace"]) == (tls["secretName"], service["namespace"])
    nodes = render(tmp_path / "node", "node", ("node-files", "node-cert-manager"))
    client = the(nodes, "Certificate")
    assert client["metadata"]["namespace"] == the(nodes, "DaemonSet")["metadata"]["namespace"]
    pod = pod_of(nodes)
    volume = next(item["secret"] for item in pod["volumes"] if item["name"] == "node-tls")
    assert client["spec"]["secretName"] == volume["secretName"]
    assert {item["spec"]["issuerRef"]["name"] for item in (*certificates.values(), client)} == issuers
    pairs = ["--files", "/files/tls", "/node/ocicrypt/tls"]
    installer, wait = (container["args"] for container in containers_of(pod))
    assert (installer[-3:], wait[-6:]) == (pairs, [*pairs, "--secret", "ctd-decoder-node-tls", "/files/tls"])
    (role,) = [item for item in nodes if item["kind"] == "Role"]
    secrets = {wait[place + 1] for place, word in enumerate(wait) if word == "--secret"}
    mounted = {item["secret"]["secretName"] for item in pod["volumes"] if "secret" in item}
    (rule,) = role["rules"]
    assert (set(rule["resourceNames"]), rule["verbs"]) == (secrets, ["watch"])
    assert secrets == mounted
