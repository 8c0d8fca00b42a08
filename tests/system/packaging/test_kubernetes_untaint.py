"""The taint of new Kubernetes nodes, which the installer takes away by the API server."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import celpy
import pytest
from celpy.adapter import json_to_cel

from tests.support.kubernetes.api_server import Handler, KubernetesServer
from tests.support.kubernetes.manifests import MANIFESTS, render
from tests.support.network.certificates import issue

_TAINT = "ctd-decoder/not-ready"
_OTHERS = [{"key": "node.kubernetes.io/not-ready", "effect": "NoSchedule"}, {"key": "gpu", "effect": "NoExecute"}]


class ApiServer(KubernetesServer):
    """Has one node, and applies JSON patches to its taints (RFC 6902, as far as `test` and `remove`).

    Args:
        directory: gets the service account's files.
        taints: the node's.
        before_patch: is called once, before the first patch.
    """

    def __init__(
        self,
        directory: Path,
        taints: list[dict[str, str]],
        before_patch: Callable[[ApiServer], object] = lambda _: None,
    ) -> None:
        self.taints = taints
        self.allowed = True
        self.before_patch = before_patch
        server = self

        class Patching(Handler):
            def do_GET(self) -> None:  # noqa: N802 - the base class names it so
                self._answer(*server.get(self.path, self.headers["Authorization"]))

            def do_PATCH(self) -> None:  # noqa: N802 - likewise
                body = self.rfile.read(int(self.headers["Content-Length"]))
                assert self.headers["Content-Type"] == "application/json-patch+json"
                self._answer(*server.patch(json.loads(body)))

            def _answer(self, status: int, body: dict[str, Any]) -> None:
                content = json.dumps(body).encode()
                self.send_response(status)
                self.send_header("Content-Length", str(len(content)))
                self.end_headers()
                self.wfile.write(content)

        super().__init__(directory, Patching)

    def get(self, path: str, authorization: str) -> tuple[int, dict[str, Any]]:
        if not self.allowed or authorization != "Bearer secret-token":
            return 403, {"message": "nodes is forbidden"}
        assert path == "/api/v1/nodes/worker-1"
        return 200, {"metadata": {"name": "worker-1"}, "spec": {"taints": self.taints} if self.taints else {}}

    def patch(self, changes: list[dict[str, Any]]) -> tuple[int, dict[str, Any]]:
        before, self.before_patch = self.before_patch, lambda _: None
        before(self)
        taints = list(self.taints)
        for change in changes:
            number = int(change["path"].split("/")[3])
            if change["op"] == "test" and (number >= len(taints) or taints[number]["key"] != change["value"]):
                return 422, {"message": "the test failed"}
            if change["op"] == "remove":
                del taints[number]
        self.taints = taints
        return 200, {}

    def untaint(self) -> subprocess.CompletedProcess[str]:
        """Run the program as the pod does, with a short pause instead of its own."""
        program = MANIFESTS / "install_on_node.py"
        start = (
            f"import sys; sys.path.insert(0, {str(program.parent)!r})\n"
            "import install_on_node as program; program._API_PAUSE_SECONDS = 0.01\n"
            "sys.exit(program.main())"
        )
        return subprocess.run(
            [
                *(sys.executable, "-c", start),
                *("untaint", "--node", "worker-1", "--taint", _TAINT),
                "--account",
                self.directory,
            ],
            env={
                **os.environ,
                **self.environment,
            },
            capture_output=True,
            text=True,
            timeout=120,
            check=False,
        )


def taint(effect: str = "NoSchedule") -> dict[str, str]:
    return {"key": _TAINT, "effect": effect}


@pytest.mark.parametrize(
    "taints", [[taint()], [_OTHERS[0], taint(), _OTHERS[1]], [taint(), *_OTHERS, taint("NoExecute")], [], _OTHERS]
)
def test_the_taint_goes_and_others_stay(taints: list[dict[str, str]], tmp_path: Path) -> None:
    with ApiServer(tmp_path, taints) as server:
        done = server.untaint()
        assert done.returncode == 0, done.stderr
        assert server.taints == [each for each in taints if each["key"] != _TAINT]


def test_a_node_that_changes_meanwhile_loses_no_other_taint(tmp_path: Path) -> None:
    with ApiServer(tmp_path, [taint()], lambda server: server.taints.insert(0, _OTHERS[0])) as server:
        done = server.untaint()
        assert done.returncode == 0, done.stderr
        assert server.taints == [_OTHERS[0]]


def test_what_the_api_server_refuses_is_said_at_once(tmp_path: Path) -> None:
    with ApiServer(tmp_path, [taint()]) as server:
        server.allowed = False
        done = server.untaint()
    assert done.returncode == 1
    assert done.stderr == (
        "install-on-node: error: the API server answers GET /api/v1/nodes/worker-1 with 403: nodes is forbidden\n"
    )


def test_an_api_server_with_another_authority_gets_no_token(tmp_path: Path) -> None:
    with ApiServer(tmp_path, [taint()]) as server:
        issue("another").write(tmp_path / "ca.crt")
        done = server.untaint()
        assert done.returncode == 1
        assert "CERTIFICATE_VERIFY_FAILED" in done.stderr
        assert server.taints == [taint()]


_ACCOUNT = "system:serviceaccount:ctd-decoder-node:ctd-decoder-node"


def node(taints: list[dict[str, str]], name: str = "worker-1", **members: Any) -> dict[str, Any]:
    spec = {"taints": taints} if taints else {}
    return {
        "metadata": {"name": name, **members.get("metadata", {})},
        "spec": {**spec, **members.get("spec", {})},
    }


@pytest.mark.parametrize(
    ("before", "after", "allowed"),
    [
        (node([taint()]), node([]), True),
        (node([_OTHERS[0], taint(), _OTHERS[1]]), node(_OTHERS), True),
        (node([_OTHERS[0], taint()]), node([taint()]), False),
        (node([_OTHERS[0], taint()]), node([]), False),
        (node([taint()]), node(_OTHERS), False),
        (node([taint()], "worker-2"), node([], "worker-2"), False),
        (node([taint()]), node([], metadata={"labels": {"role": "control-plane"}}), False),
        (node([taint()]), node([], metadata={"annotations": {"a": "b"}}), False),
        (node([taint()]), node([], spec={"unschedulable": True}), False),
    ],
)
def test_the_account_can_do_nothing_else(
    before: dict[str, Any], after: dict[str, Any], allowed: bool, tmp_path: Path
) -> None:
    """The admission policy's expressions, evaluated (Common Expression Language)."""
    rendered = render(tmp_path, "node", ("node-startup-taint",))
    (policy,) = [item["spec"] for item in rendered if item["kind"] == "ValidatingAdmissionPolicy"]
    user = {"username": _ACCOUNT, "extra": {"authentication.kubernetes.io/node-name": ["worker-1"]}}
    names: dict[str, Any] = {"object": after, "oldObject": before, "request": {"userInfo": user}}
    assert evaluate(policy["matchConditions"][0]["expression"], names)
    names["variables"] = {item["name"]: evaluate(item["expression"], names) for item in policy["variables"]}
    assert all(evaluate(item["expression"], names) for item in policy["validations"]) == allowed
    names["request"] = {"userInfo": {"username": "system:node:worker-1", "extra": {}}}
    assert not evaluate(policy["matchConditions"][0]["expression"], names)


def evaluate(expression: str, names: dict[str, Any]) -> Any:
    environment = celpy.Environment()
    program = environment.program(environment.compile(expression))
    return program.evaluate({name: json_to_cel(value) for name, value in names.items()})
