"""The server at the system's limits: no further process or thread (RLIMIT_NPROC), no free descriptor.

Root is exempt from RLIMIT_NPROC, so the server runs as a user of its own, who may read what root may.
"""

from __future__ import annotations

import os
import resource
import signal
import subprocess
import time
from concurrent.futures import ThreadPoolExecutor
from contextlib import ExitStack
from pathlib import Path

import grpc
import pytest

from tests.support.provider.serving import (
    KEYPROVIDER,
    Server,
    ask,
    local_options,
    message,
    method_of,
    request_of,
    wait_for,
)

LOOPBACK = ("--listen", "127.0.0.1:0")
WRAP = request_of("keywrap", b'{"symkey":"c2VjcmV0","digest":"sha256:0","cipheroptions":{}}')
OWN = [("grpc.use_local_subchannel_pool", 1), ("grpc.enable_retries", 0)]
SECONDS = 120.0
# A provider that waits for a key service.
WAITING = """
from decoder.provider import Use
from decoder.provider.services.local import Local
Local.wrap = lambda self, options, parameters: Use(("local://a",), lambda seconds: b"wrapped")
"""


@pytest.fixture
def user(worker_id: str) -> int:
    """A user with no other process."""
    return 64_000 + (0 if worker_id == "master" else int(worker_id.removeprefix("gw"))) + 100 * (os.getpid() % 15)


@pytest.fixture
def local(user: int, tmp_path: Path) -> tuple[str, ...]:
    options = local_options(tmp_path)
    os.chown(tmp_path / "image.key", user, user)
    return options


def as_user(user: int, *command: str) -> tuple[str, ...]:
    rights = ("--inh-caps=-all,+dac_read_search", "--ambient-caps=-all,+dac_read_search")
    return ("setpriv", "--reuid", str(user), "--regid", str(user), "--clear-groups", *rights, *command)


def limit(user: int, process: int, count: int) -> None:
    """Set how many processes and threads the user may have if this process starts another one."""
    command = as_user(user, "prlimit", f"--pid={process}", f"--nproc={count}:4096")
    subprocess.run(command, check=True, timeout=SECONDS)


def children(process: int) -> set[int]:
    return set(map(int, Path(f"/proc/{process}/task/{process}/children").read_text().split()))


def answers(target: str, connections: int = 20) -> bool:
    """Ask over several connections, which the kernel spreads over the processes."""
    for _ in range(connections):
        with grpc.insecure_channel(target, OWN) as channel:
            assert ask(channel, "WrapKey", WRAP)
    return True


@pytest.mark.parametrize("address", ["127.0.0.1:0", "localhost:0"])
def test_a_server_goes_on_while_no_process_can_be_started(
    user: int, local: tuple[str, ...], tmp_path: Path, address: str
) -> None:
    arguments = (*local, "--listen", address, "--processes", "3")
    with Server(tmp_path, *arguments, program=as_user(user, *KEYPROVIDER)) as server:
        parent = server.process.pid
        limit(user, parent, 1)
        first, second, _ = children(parent)
        for process in (first, second):
            os.kill(process, signal.SIGKILL)
        wait_for(lambda: "cannot be started: Resource temporarily unavailable" in server.log)
        wait_for(lambda: len(children(parent)) == 1)
        wait_for(lambda: server.log.count("ended with status -9") == 2)
        assert answers(server.target)
        limit(user, parent, 4096)
        wait_for(lambda: "all processes of the server run again" in server.log)
        assert len(children(parent)) == 3
        assert answers(server.target)
    assert server.log.count("cannot be started") == 1


def test_a_server_that_can_start_no_process_says_so(user: int, local: tuple[str, ...]) -> None:
    command = ("prlimit", "--nproc=1:4096", *KEYPROVIDER, "serve", *local, *LOOPBACK, "--processes", "2")
    done = subprocess.run(as_user(user, *command), capture_output=True, text=True, timeout=SECONDS, check=False)
    assert done.returncode == 7
    assert "no process of the server can be started: Resource temporarily unavailable" in done.stderr
    assert done.stderr.count("\n") == 1


@pytest.mark.parametrize("processes", ["1", "2"])
def test_a_server_that_can_start_no_thread_says_so(user: int, local: tuple[str, ...], processes: str) -> None:
    """gRPC's library would crash."""
    command = ("prlimit", "--nproc=3:4096", *KEYPROVIDER, "serve", *local, *LOOPBACK, "--processes", processes)
    done = subprocess.run(as_user(user, *command), capture_output=True, text=True, timeout=SECONDS, check=False)
    assert done.returncode == 8
    assert "error: no thread can be started: limits are RLIMIT_NPROC" in done.stderr
    assert done.stderr.count("\n") == 1


def test_a_call_for_which_no_thread_can_be_started_may_be_tried_again(
    user: int, local: tuple[str, ...], tmp_path: Path
) -> None:
    with (
        Server(tmp_path, *local, *LOOPBACK, prelude=WAITING, program=as_user(user, *KEYPROVIDER)) as server,
        grpc.insecure_channel(server.target, OWN) as channel,
    ):
        limit(user, server.process.pid, 1)
        with pytest.raises(grpc.RpcError) as refused:
            ask(channel, "WrapKey", WRAP)
        assert isinstance(refused.value, grpc.Call)
        assert refused.value.code() == grpc.StatusCode.RESOURCE_EXHAUSTED
        limit(user, server.process.pid, 4096)
        assert ask(channel, "WrapKey", WRAP)


def test_a_server_without_free_descriptors_waits(tmp_path: Path) -> None:
    """It does not occupy a processor, and the clients are served later. Both of its sockets behave like this."""
    arguments = (*local_options(tmp_path), *LOOPBACK, "--metrics", "127.0.0.1:0")
    with Server(tmp_path, *arguments) as server, ExitStack() as stack:
        process = server.process.pid
        assert answers(server.target, 1)
        before = resource.prlimit(process, resource.RLIMIT_NOFILE)
        resource.prlimit(process, resource.RLIMIT_NOFILE, (0, before[1]))  # open ones stay
        channel = stack.enter_context(grpc.insecure_channel(server.target, OWN))
        call = method_of(channel, "/keyprovider.KeyProviderService/WrapKey").future(message(WRAP), timeout=SECONDS)
        metrics = stack.enter_context(ThreadPoolExecutor(1)).submit(server.status, "/readyz")
        wait_for(lambda: "no connection can be accepted now: Too many open files" in server.log)
        began = processor_seconds(process)
        time.sleep(3)
        assert processor_seconds(process) - began < 1.5
        resource.prlimit(process, resource.RLIMIT_NOFILE, before)
        assert call.result()
        assert metrics.result()[0] == 200
        assert server.log.count("no connection can be accepted") == 1
        assert "Traceback" not in server.log


def processor_seconds(process: int) -> float:
    fields = Path(f"/proc/{process}/stat").read_text().rpartition(")")[2].split()
    return (int(fields[11]) + int(fields[12])) / os.sysconf("SC_CLK_TCK")  # proc(5): utime and stime
