"""An agent that waits gives up memory, and it learns what layers on this node need."""

from __future__ import annotations

from pathlib import Path

import pytest

from tests.support.program.agent import NOTING, Agent, Place, wait_until, works
from tests.support.provider.client_parts import NAME, PLAINTEXT, configuration, decrypt, turning_command

IDLE_KIB = 25 * 1024
MODULE = "decoder.provider.client.command"


def pss(process: int) -> int:
    """Return the memory of a process, with its share of what others have too, in KiB; a lot if it ends just now."""
    try:
        text = Path(f"/proc/{process}/smaps_rollup").read_text()
    except (FileNotFoundError, ProcessLookupError):
        text = ""
    return int(text.partition("\nPss:")[2].split()[0]) if text else 1 << 30


@pytest.mark.usefixtures("unmeasured")
def test_memory_of_an_idle_agent(place: Place) -> None:
    with Agent(place, rest=3) as agent:
        for _ in range(5):
            assert works(place)

        def is_small() -> bool:
            workers = agent.children
            return len(workers) == 1 and sum(map(pss, (agent.process.pid, *workers))) < IDLE_KIB

        wait_until(is_small)
        assert works(place)
        wait_until(lambda: len(agent.children) == 2)


def test_what_one_layer_has_to_import_later_ones_have(place: Place, tmp_path: Path) -> None:
    record = tmp_path / "imports"
    config = configuration(tmp_path, {NAME: turning_command(tmp_path).entry})
    with Agent(place, before=NOTING.format(module=MODULE, record=str(record))) as agent:
        assert not record.exists()
        assert decrypt(config, program=place.client) == (0, PLAINTEXT, "")
        wait_until(lambda: record.read_text() == f"{MODULE}\n" * 2)  # by the worker, then by the zygote
        wait_until(agent.is_prepared)
        for _ in range(5):
            assert decrypt(config, program=place.client) == (0, PLAINTEXT, "")
        assert record.read_text() == f"{MODULE}\n" * 2
        assert place.fallbacks == 0
