"""The Hugging Face Hub as far as ffvit needs it: repositories in memory, up and down, files by their SHA-256."""

from __future__ import annotations

import base64
import contextlib
import hashlib
import json
import threading
from collections.abc import Iterator
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer

COMMIT = "c" * 40


class Hub(ThreadingHTTPServer):
    """Repositories by name, each with its files; `token` is asked for when something is written."""

    daemon_threads = True

    def __init__(self) -> None:
        super().__init__(("127.0.0.1", 0), _Handler)
        self.repositories: dict[str, dict[str, bytes]] = {}
        self.private: dict[str, bool] = {}
        self.blobs: dict[str, bytes] = {}
        self.token = "hf_right"
        self.gated: set[str] = set()  # repositories whose files their owner gives on request
        self.full = False  # whether what is written is refused: no room is left
        self.break_off = 0  # bytes after which the next download of weights ends
        self.ranges: list[str] = []

    @property
    def address(self) -> str:
        return f"http://127.0.0.1:{self.server_port}"

    def handle_error(self, request, client_address) -> None:
        """A client that went away is none of our business."""


@contextlib.contextmanager
def hub() -> Iterator[Hub]:
    server = Hub()
    thread = threading.Thread(target=server.serve_forever, kwargs={"poll_interval": 0.02})
    thread.start()
    try:
        yield server
    finally:
        server.shutdown()
        server.server_close()
        thread.join()


class _Handler(BaseHTTPRequestHandler):
    protocol_version = "HTTP/1.1"
    server: Hub

    def log_message(self, *_) -> None: ...

    def answer(self, body: object = b"", status: int = 200, **headers: str) -> None:
        content = body if isinstance(body, bytes) else json.dumps(body).encode()
        self.send_response(status)
        for name, value in {"Content-Length": str(len(content)), **headers}.items():
            self.send_header(name.replace("_", "-"), value)
        self.end_headers()
        if self.command != "HEAD":
            self.wfile.write(content)

    def body(self) -> bytes:
        return self.rfile.read(int(self.headers.get("Content-Length", 0)))

    def do_PUT(self) -> None:
        self.server.blobs[self.path.rpartition("/")[2]] = self.body()
        self.answer()

    def do_POST(self) -> None:
        content, hub = self.body(), self.server
        if self.headers.get("Authorization") != f"Bearer {hub.token}":
            return self.answer({"error": "Invalid token"}, 401)
        if hub.full:
            return self.answer({"error": "Storage limit reached"}, 402)
        path = self.path.partition("?")[0]
        if path == "/api/repos/create":
            asked = json.loads(content)
            name = "/".join(filter(None, (asked.get("organization"), asked["name"])))
            hub.repositories.setdefault(name, {})
            hub.private.setdefault(name, asked.get("private", False) or asked.get("visibility") == "private")
            return self.answer({"url": f"{hub.address}/{name}", "id": "1", "name": name})
        if path == "/api/validate-yaml":
            return self.answer({"errors": [], "warnings": []})
        if "/preupload/" in path:
            files = [
                {
                    "path": file["path"],
                    "uploadMode": "lfs" if file["path"].endswith("safetensors") else "regular",
                    "shouldIgnore": False,
                }
                for file in json.loads(content)["files"]
            ]
            return self.answer({"files": files})
        if path.endswith("/objects/batch"):
            objects = [
                {"oid": each["oid"], "size": each["size"],
                 "actions": {"upload": {"href": f"{hub.address}/blobs/{each['oid']}"}}}
                for each in json.loads(content)["objects"]
            ]  # fmt: skip
            return self.answer({"transfer": "basic", "objects": objects}, Content_Type="application/vnd.git-lfs+json")
        name = path.removeprefix("/api/models/").partition("/commit/")[0]
        for line in map(json.loads, content.splitlines()):
            value = line["value"]
            if line["key"] == "file":
                hub.repositories[name][value["path"]] = base64.b64decode(value["content"])
            elif line["key"] == "lfsFile":
                hub.repositories[name][value["path"]] = hub.blobs[value["oid"]]
        return self.answer({"commitUrl": f"{hub.address}/{name}/commit/{COMMIT}", "commitOid": COMMIT})

    def do_HEAD(self) -> None:
        self.do_GET()

    def do_GET(self) -> None:
        hub, parts = self.server, self.path.partition("?")[0].strip("/").split("/")
        api = parts[:2] == ["api", "models"]
        name = "/".join(parts[2:4] if api else parts[:2])
        files = hub.repositories.get(name)
        if files is None:
            return self.answer({"error": "Repository not found"}, 404, X_Error_Code="RepoNotFound")
        if api and "revision" in parts and parts[-1] not in ("main", COMMIT):
            return self.answer({"error": "Invalid rev id"}, 404, X_Error_Code="RevisionNotFound")
        if not api and name in hub.gated:
            return self.answer({"error": "Access is restricted"}, 403, X_Error_Code="GatedRepo")
        if api and "tree" in parts:
            return self.answer([_entry(path, content) for path, content in files.items()])
        if api:
            siblings = [{"rfilename": path} for path in files]
            return self.answer({"id": name, "sha": COMMIT, "siblings": siblings, "private": hub.private[name]})
        path = "/".join(parts[4:])
        if path not in files:
            return self.answer({"error": "Entry not found"}, 404, X_Error_Code="EntryNotFound", X_Repo_Commit=COMMIT)
        content = files[path]
        headers = {"ETag": f'"{_git_hash(content)}"', "X_Repo_Commit": COMMIT, "Accept_Ranges": "bytes"}
        if path.endswith("safetensors"):
            headers |= {"X_Linked_ETag": f'"{hashlib.sha256(content).hexdigest()}"', "X_Linked_Size": str(len(content))}
            if self.command == "GET":
                return self.weights(content, headers)
        return self.answer(content, **headers)

    def weights(self, content: bytes, headers: dict[str, str]) -> None:
        asked, size = self.headers.get("Range"), len(content)
        self.server.ranges.append(asked or "")
        first = int(asked.removeprefix("bytes=").partition("-")[0]) if asked else 0
        if asked:
            headers |= {"Content_Range": f"bytes {first}-{size - 1}/{size}"}
        if not self.server.break_off:
            return self.answer(content[first:], 206 if asked else 200, **headers)
        self.send_response(200)
        self.send_header("Content-Length", str(size))
        self.end_headers()
        self.wfile.write(content[: self.server.break_off])
        self.server.break_off = 0
        self.close_connection = True
        return None


def _git_hash(content: bytes) -> str:
    return hashlib.sha1(b"blob %d\0" % len(content) + content).hexdigest()


def _entry(path: str, content: bytes) -> dict[str, object]:
    entry: dict[str, object] = {"type": "file", "path": path, "size": len(content), "oid": _git_hash(content)}
    if path.endswith("safetensors"):
        entry["lfs"] = {"oid": hashlib.sha256(content).hexdigest(), "size": len(content), "pointerSize": 130}
    return entry
