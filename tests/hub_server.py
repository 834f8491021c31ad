"""A small server that speaks as much of the Hugging Face hub's HTTP interface as uploads and downloads need."""

import base64
import hashlib
import json
import re
from collections.abc import Iterator
from contextlib import contextmanager
from fnmatch import fnmatch
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from threading import Thread
from typing import Any
from urllib.parse import unquote, urlsplit

Files = dict[str, bytes]


class Hub:
    """Repositories in memory: the files of each commit, and the commit of each branch."""

    def __init__(self) -> None:
        self.commits: dict[tuple[str, str], Files] = {}
        self.branches: dict[str, dict[str, str]] = {}
        self.downloaded: list[str] = []
        self.private: dict[str, Any] = {}
        self.url = ""

    def create(self, repo: str) -> None:
        if repo not in self.branches:
            self.branches[repo] = {}
            self.commit(repo, "main", {})

    def commit(self, repo: str, branch: str, files: Files) -> str:
        """Make a commit of these files, all that the branch then has; return its hash."""
        sha = hashlib.sha1(repr((repo, len(self.commits), sorted(files))).encode()).hexdigest()
        self.commits[repo, sha] = dict(files)
        self.branches[repo][branch] = sha
        return sha

    def files(self, repo: str, revision: str = "main") -> Files:
        return self.commits[repo, self.branches[repo].get(revision, revision)]

    def answer(self, path: str, body: bytes) -> Any:
        """Return the JSON for a request of the interface, or the code of an error."""
        if path == "/api/repos/create":
            values = json.loads(body)
            repo = f"{values['organization'] or 'user'}/{values['name']}"
            self.create(repo)
            self.private[repo] = values.get("visibility")
            return {"url": f"{self.url}/{repo}", "name": repo}
        match = re.fullmatch(r"/api/models/([^/]+/[^/]+)(?:/(\w+)/([^/]+))?", path)
        if not match:
            return {}
        repo, action, revision = match[1], match[2], unquote(match[3] or "main")
        if repo not in self.branches:
            return "RepoNotFound"
        if action == "branch":
            self.branches[repo].setdefault(revision, self.branches[repo]["main"])
            return {}
        sha = self.branches[repo].get(revision, revision)
        if (repo, sha) not in self.commits:
            return "RevisionNotFound"
        files = self.commits[repo, sha]
        if action == "preupload":
            named = [file["path"] for file in json.loads(body)["files"]]
            return {"files": [{"path": name, "uploadMode": "regular", "shouldIgnore": False} for name in named]}
        if action == "commit":
            changed = self.commit(repo, revision, apply(files, body))
            return {"commitUrl": f"{self.url}/{repo}/commit/{changed}", "commitOid": changed, "success": True}
        if action == "tree":
            return [{"type": "file", "path": n, "size": len(c), "oid": etag(c)} for n, c in files.items()]
        return {"id": repo, "sha": sha, "siblings": [{"rfilename": name} for name in files]}


def apply(files: Files, body: bytes) -> Files:
    """Return the files after a commit, whose body has a line of JSON for each change."""
    changed = dict(files)
    for line in map(json.loads, body.splitlines()):
        value = line["value"]
        if line["key"] == "file":
            changed[value["path"]] = base64.b64decode(value["content"])
        elif line["key"] == "deletedFile":
            del changed[value["path"]]
    return changed


def etag(content: bytes) -> str:
    return hashlib.sha1(content).hexdigest()


def make_handler(hub: Hub) -> type[BaseHTTPRequestHandler]:
    class Handler(BaseHTTPRequestHandler):
        protocol_version = "HTTP/1.1"

        def do_POST(self) -> None:
            body = self.rfile.read(int(self.headers.get("Content-Length") or 0))
            self.reply(hub.answer(urlsplit(self.path).path, body))

        def do_GET(self) -> None:
            path = urlsplit(self.path).path
            match = re.fullmatch(r"/([^/]+/[^/]+)/resolve/([^/]+)/(.+)", path)
            if path.startswith("/api/") or not match:
                self.reply(hub.answer(path, b""))
                return
            repo, revision, name = match[1], unquote(match[2]), unquote(match[3])
            sha = hub.branches.get(repo, {}).get(revision, revision)
            content = hub.commits.get((repo, sha), {}).get(name)
            if content is None:
                self.reply("EntryNotFound" if (repo, sha) in hub.commits else "RepoNotFound")
                return
            if self.command == "GET":
                hub.downloaded.append(f"{repo}/{name}")
            self.reply(content, {"ETag": f'"{etag(content)}"', "X-Repo-Commit": sha})

        do_HEAD = do_GET

        def reply(self, answer: Any, headers: dict[str, str] | None = None) -> None:
            failed = isinstance(answer, str)
            body = answer if isinstance(answer, bytes) else json.dumps({} if failed else answer).encode()
            self.send_response(404 if failed else 200)
            for name, value in {**(headers or {}), **({"X-Error-Code": answer} if failed else {})}.items():
                self.send_header(name, value)
            self.send_header("Content-Length", str(len(body)))
            self.end_headers()
            if self.command != "HEAD":
                self.wfile.write(body)

        def log_message(self, *_: Any) -> None:
            """Say nothing."""

    return Handler


@contextmanager
def running_hub() -> Iterator[Hub]:
    """Run a hub in a thread."""
    hub = Hub()
    server = ThreadingHTTPServer(("127.0.0.1", 0), make_handler(hub))
    hub.url = f"http://127.0.0.1:{server.server_port}"
    thread = Thread(target=server.serve_forever, daemon=True)
    thread.start()
    try:
        yield hub
    finally:
        server.shutdown()
        server.server_close()
        thread.join()


def only(files: Files, pattern: str) -> str:
    """Return the one name of a pattern."""
    (name,) = (name for name in files if fnmatch(name, pattern))
    return name
