"""The Kubernetes API server as a pod reaches it with its service account: requests, and watches of Secrets."""

from __future__ import annotations

import base64
import http.client
import json
import os
import random
import re
import socket
import ssl
import sys
import threading
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any
from urllib.parse import quote, urlencode

_SECONDS = 10.0  # for each request
_BYTES = 8 * 1024 * 1024  # a node lists its images
_WATCH_SECONDS = 300  # then the API server ends a watch, and the next one begins
_EVENT_BYTES = 4 * 1024 * 1024  # a Secret has 1 MiB at most, in base64
_KEEPALIVE = {socket.TCP_KEEPIDLE: 15, socket.TCP_KEEPINTVL: 5, socket.TCP_KEEPCNT: 3}  # a dead connection: 30 s
_PAUSES = (1.0, 30.0)  # between watches that fail, in seconds: doubled, and a random part of it
_REFUSED_PAUSE = 300.0  # after an answer that will not change soon, such as a missing right
_FILE_NAME = re.compile(r"(?!\.\.|\.$)[-._a-zA-Z0-9]{1,253}")

Files = dict[str, bytes]


class ApiError(Exception):
    """The API server refuses a request, or its address is unknown."""


class BusyError(ApiError):
    """The request may succeed later."""


def ask(account: Path, method: str, path: str, body: bytes | None = None) -> dict[str, Any]:
    """Send a request, and return the JSON of the answer.

    Args:
        account: the directory with the service account's `token` and the API server's `ca.crt`.
        method: the HTTP method.
        path: the path and the query.
        body: a JSON patch.

    Raises:
        ApiError: the API server refuses.
        OSError: it cannot be reached, or the account cannot be read.
    """
    connection = _connect(account)
    try:
        connection.request(method, path, body, _headers(account))
        response = connection.getresponse()
        content = response.read(_BYTES)
    finally:
        connection.close()
    return _checked(f"{method} {path}", response.status, content)


class WatchedSecret:
    """The files of a mounted Secret, from a watch of the API server, because the kubelet updates the mount later.

    Args:
        name: the name of the Secret, in the namespace of the service account.
        account: the directory with `token`, `ca.crt` and `namespace` of an account that may `watch` this Secret.
    """

    def __init__(self, name: str, account: Path) -> None:
        self._name, self._account = name, account
        self._lock = threading.Lock()
        self._files: Files | None = None
        self._mounted: Files | None = None
        self._is_connected = False

    def start(self) -> None:
        """Watch, in a thread that ends with this process."""
        threading.Thread(target=self._watch, daemon=True).start()

    def newest(self, mounted: Files) -> Files:
        """Return the newest files: those of the API server, or the mounted ones if they changed during an outage of it.

        Args:
            mounted: the files that the volume has now.
        """
        with self._lock:
            if self._files is None:
                return mounted
            if self._is_connected:
                self._mounted = mounted
            elif mounted != self._mounted:
                self._files = None
                return mounted
            return self._files

    def _watch(self) -> None:
        said, pause = "", _PAUSES[0]
        while True:
            refused, began = False, time.monotonic()
            try:
                for files in self._events():
                    with self._lock:
                        self._files, self._is_connected = files, True
                said = ""
            except (ApiError, OSError, http.client.HTTPException, ValueError) as error:
                refused = type(error) is ApiError
                if str(error) != said:
                    said = str(error)
                    later = "its files change when the kubelet updates the mount"
                    text = f"the Secret {self._name} is not watched: {said}; {later}"
                    print(f"install-on-node: warning: {text}", file=sys.stderr, flush=True)
            finally:
                with self._lock:
                    self._is_connected = False
            pause = min(2 * pause, _PAUSES[1]) if time.monotonic() < began + _PAUSES[1] else _PAUSES[0]
            # The pause is random, so that not all nodes reconnect at once when an API server starts again.
            time.sleep(_REFUSED_PAUSE if refused else random.uniform(pause / 2, pause))  # noqa: S311

    def _events(self) -> Iterator[Files | None]:
        """Yield the files of the Secret now and after each change, until the watch ends; None once it is deleted."""
        namespace = (self._account / "namespace").read_text().strip()
        query = {
            "watch": "true",
            "fieldSelector": f"metadata.name={self._name}",
            "timeoutSeconds": _WATCH_SECONDS,
        }
        path = f"/api/v1/namespaces/{quote(namespace, safe='')}/secrets?{urlencode(query)}"
        connection = _connect(self._account)
        connected = connection.sock
        try:
            connection.request("GET", path, headers=_headers(self._account))
            response = connection.getresponse()
            if response.status != 200:
                _checked(f"GET {path.partition('?')[0]}", response.status, response.read(_BYTES))
                raise ApiError(f"the API server answers a watch with {response.status}")
            connected.settimeout(_WATCH_SECONDS + _SECONDS)
            while line := response.readline(_EVENT_BYTES + 1):
                if not line.endswith(b"\n"):
                    raise BusyError(f"an event has more than {_EVENT_BYTES} bytes, or ends early")
                event = json.loads(line)
                if event["type"] == "ERROR":
                    raise BusyError(f"the watch ends: {str(event['object'].get('message'))[:500]}")
                if event["type"] in ("ADDED", "MODIFIED", "DELETED"):
                    yield self._parse(event["object"]) if event["type"] != "DELETED" else None
        except (KeyError, TypeError, AttributeError) as error:
            raise BusyError("an event of the watch is malformed") from error
        finally:
            connection.close()

    def _parse(self, secret: dict[str, Any]) -> Files:
        if secret["metadata"]["name"] != self._name:
            raise BusyError("an event is about another Secret")
        data = secret.get("data") or {}
        if not all(_FILE_NAME.fullmatch(name) for name in data):
            raise BusyError("the Secret has a key that is not the name of a file")
        return {name: base64.b64decode(text, validate=True) for name, text in data.items()}


def _connect(account: Path) -> http.client.HTTPSConnection:
    try:
        host, port = os.environ["KUBERNETES_SERVICE_HOST"], int(os.environ["KUBERNETES_SERVICE_PORT"])
    except (KeyError, ValueError) as error:
        raise ApiError("the environment names no API server: this runs in a pod") from error
    context = ssl.create_default_context(cafile=str(account / "ca.crt"))
    connection = http.client.HTTPSConnection(host, port, timeout=_SECONDS, context=context)
    connection.connect()
    connection.sock.setsockopt(socket.SOL_SOCKET, socket.SO_KEEPALIVE, 1)
    for option, value in _KEEPALIVE.items():
        connection.sock.setsockopt(socket.IPPROTO_TCP, option, value)
    return connection


def _headers(account: Path) -> dict[str, str]:
    return {
        "Authorization": f"Bearer {(account / 'token').read_text().strip()}",
        "Content-Type": "application/json-patch+json",
        "Accept": "application/json",
    }


def _checked(what: str, status: int, content: bytes) -> dict[str, Any]:
    try:
        answer = dict(json.loads(content))
    except (ValueError, TypeError) as error:
        raise BusyError(f"the API server's answer to {what} is not JSON") from error
    if status >= 400:
        kind = BusyError if status in (409, 422, 429) or status >= 500 else ApiError
        raise kind(f"the API server answers {what} with {status}: {str(answer.get('message'))[:500]}")
    return answer
