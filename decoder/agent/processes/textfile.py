"""An agent's metrics in a file for the textfile collector of Prometheus' node_exporter."""

from __future__ import annotations

import os
from typing import TYPE_CHECKING

from decoder.node import journal

if TYPE_CHECKING:
    from collections.abc import Callable, Mapping

_PREFIX = "ctd_decoder_agent_"
_SUFFIX = ".prom"  # node_exporter reads no other files


class Textfile:
    """The metrics file of one agent. Its name has the agent's, because a machine may have several agents.

    Args:
        directory: the directory that node_exporter reads; "" for no file.
        name: the name of the agent's socket.
    """

    def __init__(self, directory: str, name: str) -> None:
        self._agent = os.path.splitext(name)[0]
        self._path = os.path.join(directory, f"ctd-decoder-{self._agent}{_SUFFIX}") if directory else ""
        self._written = ""
        self._has_warned = False

    def write(
        self,
        numbers: Mapping[str, float],
        sent_away: Mapping[str, int],
        expiry: Callable[[], Mapping[str, float]] = dict,
    ) -> None:
        """Replace the file atomically if a value has changed. The first failure is noted in the journal.

        Args:
            numbers: values by metric: counters if the name ends with `_total`, gauges otherwise.
            sent_away: the number of clients that were refused, by reason.
            expiry: tells when certificates expire, in seconds since 1970, by their files.
        """
        if not self._path:
            return
        lines = [line for name, value in numbers.items() for line in self._metric(name, {"": value})]
        lines += self._metric("sent_away_total", dict(sent_away))
        if ends := expiry():
            lines += self._metric("client_certificate_expiry_timestamp_seconds", ends, "file")
        text = "".join(f"{line}\n" for line in lines)
        if text == self._written:
            return
        try:
            self._replace(text)
            self._written = text
        except OSError as error:
            if not self._has_warned:
                journal.warn(f"the agent cannot write {self._path!a}: {error.strerror}")
            self._has_warned = True

    def _metric(self, name: str, values: Mapping[str, float], by: str = "reason") -> list[str]:
        kind = "counter" if name.endswith("_total") else "gauge"
        lines = [f"# TYPE {_PREFIX}{name} {kind}"]
        for text, value in values.items():
            label = f',{by}="{_escaped(text)}"' if text else ""
            lines.append(f'{_PREFIX}{name}{{agent="{self._agent}"{label}}} {value:.0f}')
        return lines

    def _replace(self, text: str) -> None:
        new = f"{self._path}.{os.getpid()}"  # node_exporter does not read it, because it lacks the suffix
        descriptor = os.open(new, os.O_WRONLY | os.O_CREAT | os.O_EXCL | os.O_CLOEXEC | os.O_NOFOLLOW, 0o644)
        try:
            with os.fdopen(descriptor, "wb") as file:
                os.fchmod(descriptor, 0o644)  # node_exporter runs as another user
                file.write(text.encode())
            os.rename(new, self._path)
        except OSError:
            os.unlink(new)
            raise


def _escaped(text: str) -> str:
    return ascii(text)[1:-1].replace("\\", "\\\\").replace('"', '\\"')
