"""What a zygote knows of its workers from their notices, which come in any order and may be lost."""

from __future__ import annotations

from decoder.agent.processes.counts import Counts
from decoder.agent.processes.workers import Workers

FIRST, SECOND = 101, 102


def crew() -> tuple[Workers, Counts]:
    counts = Counts()
    workers = Workers(counts)
    workers.add(FIRST)
    workers.add(SECOND)
    return workers, counts


def test_a_worker_comes_back() -> None:
    workers, counts = crew()
    for _ in range(3):
        workers.take(FIRST)
        assert (workers.waiting, list(workers.working)) == ({SECOND}, [FIRST])
        workers.settle(FIRST)
        workers.come_back(FIRST)
        assert (workers.waiting, workers.working) == ({FIRST, SECOND}, {})
    assert not workers.end(FIRST)
    assert (workers.waiting, counts.fallen_back) == ({SECOND}, 0)


def test_a_worker_that_ends_in_its_second_layer() -> None:
    """Its client has decrypted by itself, unless the layer had begun."""
    for has_begun in (False, True):
        workers, counts = crew()
        workers.take(FIRST)
        workers.settle(FIRST)
        workers.come_back(FIRST)
        workers.take(FIRST)
        if has_begun:
            workers.settle(FIRST)
        assert not workers.end(FIRST)
        assert (workers.waiting, workers.working, counts.fallen_back) == ({SECOND}, {}, int(not has_begun))


def test_a_new_worker_that_ends_has_failed() -> None:
    workers, _ = crew()
    assert workers.end(FIRST)
    assert not workers.end(FIRST)


def test_one_of_an_earlier_shift_may_have_a_client() -> None:
    workers, _ = crew()
    workers.take(SECOND)
    workers.change_shift()
    assert (workers.waiting, list(workers.working)) == (set(), [SECOND])
    workers.take(FIRST)
    assert sorted(workers.working) == [FIRST, SECOND]
    workers.end(FIRST)
    assert workers
    workers.end(SECOND)
    assert not workers


def test_a_question_for_the_status_keeps_no_agent_alive() -> None:
    workers, counts = crew()
    workers.active_at = before = workers.active_at - 100
    workers.take(FIRST)
    workers.settle(FIRST, has_asked=True)
    workers.end(FIRST)
    assert workers.active_at == before
    workers.take(SECOND)
    workers.settle(SECOND)
    workers.come_back(SECOND)
    assert workers.active_at >= before + 100
    assert counts.fallen_back == 0


def test_notices_that_were_lost() -> None:
    workers, counts = crew()
    workers.come_back(FIRST)  # its client was not reported
    workers.settle(FIRST)
    assert workers.waiting == {FIRST, SECOND}
    workers.take(FIRST)
    workers.settle(FIRST)
    workers.take(FIRST)  # that it came back was not reported
    workers.settle(FIRST)
    workers.end(FIRST)
    workers.take(FIRST)  # it has ended
    assert (workers.waiting, workers.working, counts.fallen_back) == ({SECOND}, {}, 0)
