"""A registry in memory that speaks enough of OCI's distribution-spec for images to be pushed and pulled.

The system tests use a real one; this one is for machines that have nothing but Python.
"""

from __future__ import annotations

import json
from urllib.parse import parse_qs, urlsplit

from tests.support.image.images import digest_of
from tests.support.network.loopback import Answer, Asked, Loopback, json_answer

_TOKEN = "token-of-the-test"


class MemoryRegistry(Loopback):
    """Listens on the loopback interface, without TLS.

    Args:
        wants_token: whether it demands a bearer token, which its own `/token` gives to everybody.
        redirects: whether blobs are at another address.
        wants_login: whether it demands a name and password, and refuses every one.
        has_referrers: whether it has the referrers API.
        page: how many tags it lists at a time.

    Attributes:
        blobs: by digest.
        manifests: content and media type, by `NAME:TAG` and `NAME:DIGEST`.
        read_only: names of repositories to which nobody may write.
        deletes: whether manifests can be deleted.
    """

    def __init__(
        self,
        wants_token: bool = False,
        redirects: bool = False,
        wants_login: bool = False,
        has_referrers: bool = False,
        page: int = 1000,
    ) -> None:
        super().__init__(self._reply)
        self.read_only: set[str] = set()
        self.deletes = True
        self._has_referrers, self._page = has_referrers, page
        self.blobs: dict[str, bytes] = {}
        self.manifests: dict[str, tuple[bytes, str]] = {}
        self._uploads: dict[str, bytes] = {}
        self._wants_token, self._redirects, self._wants_login = wants_token, redirects, wants_login

    @property
    def host(self) -> str:
        """Where it listens."""
        return f"127.0.0.1:{self.port}"

    def _reply(self, asked: Asked) -> Answer:
        url = urlsplit(asked.path)
        if url.path == "/token":
            return json_answer({"token": _TOKEN, "expires_in": 60})
        if url.path.startswith("/elsewhere/"):
            return Answer(200, self.blobs[url.path.removeprefix("/elsewhere/")])
        if self._wants_login:
            return Answer(401, b"{}", {"WWW-Authenticate": 'Basic realm="test"'})
        if self._wants_token and asked.headers.get("authorization") != f"Bearer {_TOKEN}":
            return Answer(401, b"{}", {"WWW-Authenticate": f'Bearer realm="{self.url}/token",service="test"'})
        return json_answer({}) if url.path == "/v2/" else self._api(asked)

    def _api(self, asked: Asked) -> Answer:
        url = urlsplit(asked.path)
        name, kind, last = url.path.removeprefix("/v2/").rsplit("/", 2)
        if asked.method not in ("GET", "HEAD") and any(url.path.startswith(f"/v2/{each}/") for each in self.read_only):
            return json_answer({"errors": [{"code": "DENIED", "message": "read only"}]}, 403)
        if kind == "tags":
            return self._tags(name, parse_qs(url.query))
        if kind == "referrers":
            return self._referrers(name, last)
        if kind == "manifests":
            return self._manifest(asked, f"{name}:{last}", name)
        if kind == "uploads" or (kind, last) == ("blobs", "uploads"):
            return self._upload(asked, url.path, parse_qs(url.query))
        return self._blob(last)

    def tags(self, name: str) -> list[str]:
        """List the tags of a repository."""
        keys = (key.rpartition("/")[2] for key in self.manifests if key.startswith(f"{name}:"))
        return sorted(key.partition(":")[2] for key in keys if "sha256:" not in key)

    def _tags(self, name: str, query: dict[str, list[str]]) -> Answer:
        if not any(key.startswith(f"{name}:") for key in self.manifests):  # as docker-registry says it
            return json_answer({"errors": [{"code": "NAME_UNKNOWN", "message": "repository name not known"}]}, 404)
        left = [tag for tag in self.tags(name) if tag > query.get("last", [""])[0]]
        page = left[: self._page]
        link = {"Link": f'</v2/{name}/tags/list?n=1000&last={page[-1]}>; rel="next"'} if page != left else {}
        return json_answer({"name": name, "tags": page}, 200, **link)

    def _referrers(self, name: str, digest: str) -> Answer:
        if not self._has_referrers:
            return json_answer({"errors": []}, 404)
        found = []
        for key, (content, media_type) in self.manifests.items():
            value = json.loads(content)
            if key == f"{name}:{digest_of(content)}" and value.get("subject", {}).get("digest") == digest:
                descriptor = {"mediaType": media_type, "digest": digest_of(content), "size": len(content)}
                found.append({**descriptor, "artifactType": value["artifactType"]})
        return json_answer(
            {"schemaVersion": 2, "mediaType": "application/vnd.oci.image.index.v1+json", "manifests": found}
        )

    def _manifest(self, asked: Asked, key: str, name: str) -> Answer:
        if asked.method == "PUT":
            digest = digest_of(asked.body)
            entry = (asked.body, asked.headers["content-type"])
            self.manifests[key] = self.manifests[f"{name}:{digest}"] = entry
            return Answer(201, b"", {"Docker-Content-Digest": digest})
        if asked.method == "DELETE" and self.deletes:
            gone = self.manifests.get(key)
            for each in [
                each for each, entry in self.manifests.items() if entry == gone and each.startswith(f"{name}:")
            ]:
                del self.manifests[each]
            return Answer(202 if gone else 404)
        if asked.method == "DELETE":
            return json_answer({"errors": [{"code": "UNSUPPORTED", "message": "unsupported"}]}, 405)
        if key not in self.manifests:
            return json_answer({"errors": [{"code": "MANIFEST_UNKNOWN", "message": "unknown"}]}, 404)
        content, media_type = self.manifests[key]
        return Answer(200, content, {"Content-Type": media_type, "Docker-Content-Digest": digest_of(content)})

    def _upload(self, asked: Asked, path: str, query: dict[str, list[str]]) -> Answer:
        if asked.method == "POST":
            path = f"{path.rstrip('/')}/{len(self._uploads)}"
            self._uploads[path] = b""
            return Answer(202, b"", {"Location": path})
        if asked.method == "DELETE":
            del self._uploads[path]
            return Answer(204)
        self._uploads[path] += asked.body
        if asked.method == "PATCH":
            return Answer(202, b"", {"Location": path})
        (digest,) = query["digest"]
        content = self._uploads.pop(path)
        if digest_of(content) != digest:
            return json_answer({"errors": [{"code": "DIGEST_INVALID", "message": "it differs"}]}, 400)
        self.blobs[digest] = content
        return Answer(201, b"", {"Docker-Content-Digest": digest})

    def _blob(self, digest: str) -> Answer:
        if digest not in self.blobs:
            return json_answer({"errors": [{"code": "BLOB_UNKNOWN", "message": "unknown"}]}, 404)
        if self._redirects:
            return Answer(307, b"", {"Location": f"{self.url}/elsewhere/{digest}"})
        return Answer(200, self.blobs[digest])
