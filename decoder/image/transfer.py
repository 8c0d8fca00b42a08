"""Writing an image: changed layers, all other blobs, the manifests, and finally the name."""

from __future__ import annotations

import os
from collections.abc import Callable, Iterable, Iterator
from concurrent.futures import FIRST_EXCEPTION, Future, ThreadPoolExecutor, wait
from threading import Event
from typing import TYPE_CHECKING, TypeVar

from decoder.errors import DecoderError, ImageError
from decoder.image import blobs, manifest
from decoder.image.retries import again

if TYPE_CHECKING:
    from decoder.image.blobs import Advance
    from decoder.image.manifest import Node
    from decoder.image.progress import Progress
    from decoder.image.transport import Descriptor, ImageSource, ImageTarget

_Result = TypeVar("_Result")
Job = Callable[["Work"], _Result]


class _StoppedError(DecoderError):
    """Another job failed, or the user interrupted; this error is never shown."""


class Work:
    """Runs jobs in parallel, one per core; the first failure stops the others.

    Args:
        progress: shows the progress of each job.
    """

    def __init__(self, progress: Progress) -> None:
        self.progress = progress
        self._stop = Event()

    def run(self, jobs: Iterable[Job[_Result]]) -> list[_Result]:
        """Run jobs to their end.

        Returns:
            The results, in the order of the jobs.

        Raises:
            DecoderError: the error of the job that failed first.
        """
        with ThreadPoolExecutor(len(os.sched_getaffinity(0))) as pool:
            futures = [pool.submit(job, self) for job in jobs]
            try:
                wait(futures, return_when=FIRST_EXCEPTION)
            finally:
                if not _went_well(futures):
                    self._stop.set()
                    pool.shutdown(wait=True, cancel_futures=True)
        failures = [error for future in futures if not future.cancelled() and (error := future.exception())]
        if failures:
            raise min(failures, key=lambda error: isinstance(error, _StoppedError))
        return [future.result() for future in futures]

    def advance(self, advance: Callable[[int], None]) -> Advance:
        """Return the progress callback of a blob; it raises once another job has failed."""

        def checked(count: int) -> None:
            if self._stop.is_set():
                raise _StoppedError
            advance(count)

        return checked


def _went_well(futures: list[Future[_Result]]) -> bool:
    return all(future.done() and not future.cancelled() and not future.exception() for future in futures)


def copy_rest(source: ImageSource, target: ImageTarget, root: Node) -> list[Job[None]]:
    """Return the jobs that copy every unchanged blob which the target does not have."""
    return [_copy_job(source, target, descriptor) for descriptor in _unchanged(root)]


def publish(target: ImageTarget, root: Node, before: Callable[[Descriptor], None] | None = None) -> Descriptor:
    """Write the changed manifests, and then point the target's name at them.

    Args:
        target: the destination.
        root: the image's manifests.
        before: is called with the descriptor just before the name is published.

    Returns:
        The descriptor that the name refers to now.
    """
    nodes = manifest.rebuild(root)
    for node in nodes:
        target.put_manifest(node.data, node.descriptor)
    if before:
        before(nodes[-1].descriptor)
    target.publish(nodes[-1].descriptor)
    return nodes[-1].descriptor


def is_elsewhere(source: ImageSource, descriptor: Descriptor) -> bool:
    """Check whether a foreign layer is only at its `urls`, and not at the source (image-spec, descriptor.md)."""
    if not descriptor.get("urls") or "layer" not in descriptor["mediaType"]:
        return False
    try:
        with source.open(descriptor):
            return False
    except ImageError:
        return True


def _unchanged(root: Node) -> Iterator[Descriptor]:
    """Yield the descriptors of all blobs except manifests and changed layers, each blob once."""
    seen = set()
    for node in root.walk():
        kept = [each for number, each in enumerate(node.layers) if number not in node.changed]
        for descriptor in (*node.others, *kept):
            if descriptor["digest"] not in seen:
                seen.add(descriptor["digest"])
                yield descriptor


def _copy_job(source: ImageSource, target: ImageTarget, descriptor: Descriptor) -> Job[None]:
    def job(work: Work) -> None:
        if is_elsewhere(source, descriptor):
            work.progress.remark(f"{descriptor['digest']} is stored elsewhere (urls) and was not copied")
        elif not target.has(descriptor):
            task = work.progress.task(f"copy {descriptor['digest'][:19]}", descriptor["size"])
            again(lambda: blobs.copy(source, target, descriptor, work.advance(task.advance)), task)
            task.done(f"copied {descriptor['digest']} ({descriptor['size']} bytes)")

    return job
