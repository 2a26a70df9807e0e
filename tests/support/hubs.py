"""Stand-ins on loopback for Hugging Face and ModelScope, used by the same clients as the real ones."""

from __future__ import annotations

import functools
import hashlib
import io
import json
import re
import sys
import threading
from collections.abc import Iterator, Mapping
from dataclasses import dataclass, field
from datetime import datetime, timezone
from http.cookies import SimpleCookie
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from types import TracebackType
from typing import Any, BinaryIO, ClassVar, Literal, NamedTuple
from urllib.parse import parse_qs, quote, unquote, urlsplit

LFS_SUFFIXES = frozenset({".pt", ".bin", ".safetensors", ".onnx", ".wav"})
CHUNK = 1 << 16
DATE = datetime(2024, 6, 1, tzinfo=timezone.utc)

Files = Mapping[str, bytes | Path]

PLUS_BASE = {"ms": "iic/emotion2vec_plus_base", "hf": "emotion2vec/emotion2vec_plus_base"}
"""The id of emotion2vec_plus_base on each hub."""

IMPATIENCE = {
    "HF_HUB_DOWNLOAD_TIMEOUT": "60",
    "MODELSCOPE_DOWNLOAD_MAX_RETRIES": "1",
    "MODELSCOPE_DOWNLOAD_TIMEOUT": "60",
    "MODELSCOPE_REPO_TREE_PAGE_MAX_ATTEMPTS": "1",
}
"""Few retries for the clients, and timeouts that only a stalled server exceeds."""


@dataclass
class Repository:
    """A model on a hub; its files may be replaced at any time, as by a push.

    Attributes:
        files: Files of the main branch (``main`` on Hugging Face, ``master`` on ModelScope).
        revisions: Files of other branches and tags, by name.
        gated: Files need the server's token.
    """

    files: Files
    revisions: dict[str, Files] = field(default_factory=dict)
    gated: bool = False


def publish(model: Path) -> dict[str, bytes | Path]:
    """Return the files of a model on a hub: its own, and others that publishers add."""
    others = {
        "README.md": b"# emotion2vec",
        "requirements.txt": b"left-pad",
        "example/test.wav": b"RIFF",
        "model.safetensors": b"other weights",
    }
    return {path.name: path for path in model.iterdir()} | others


class Request(NamedTuple):
    """A request; the path has its query, and nothing in it is quoted."""

    method: str
    path: str
    range: str | None


class HubServer:
    """A server of repositories that works like one of the hubs; use it as a context manager.

    ``.pt``, ``.bin`` and the like are LFS files, which are redirected to a second host name; all others are git blobs.

    Attributes:
        requests: All requests so far.
        cut_after: The next body of an LFS file, and its connection, end after this many bytes. Once.
        corrupt: One byte of each LFS file is wrong; digests and sizes are right.
        status: All requests are answered with this status.
        token: The token that opens gated repositories.
        delay: Seconds that each MB of an LFS file takes; its first 64 KiB come at once.
    """

    def __init__(
        self, protocol: Literal["hf", "ms"], repositories: Mapping[str, Repository], *, token: str | None = None
    ) -> None:
        self.protocol = protocol
        self.repositories = dict(repositories)
        self.requests: list[Request] = []
        self.cut_after: int | None = None
        self.corrupt = False
        self.status: int | None = None
        self.token = token
        self.delay = 0.0
        self.stopping = threading.Event()
        self._server = _Server(self, HuggingFace if protocol == "hf" else ModelScope)
        self._thread = threading.Thread(target=self._server.serve_forever, args=(0.02,), daemon=True)

    @property
    def port(self) -> int:
        return self._server.server_port

    @property
    def url(self) -> str:
        return f"http://127.0.0.1:{self.port}"

    def environment(self, folder: Path) -> dict[str, str]:
        """Return variables that lead the hub's client here, with its caches in a folder instead of the user's."""
        common = {"HOME": f"{folder}", "NO_PROXY": "127.0.0.1,localhost", "no_proxy": "127.0.0.1,localhost"}
        if self.protocol == "hf":
            return common | {
                "HF_ENDPOINT": self.url,
                "HF_HOME": f"{folder / 'huggingface'}",
                "HF_HUB_CACHE": f"{folder / 'huggingface' / 'hub'}",
                "HF_HUB_OFFLINE": "0",
                "HF_TOKEN": "",
                "HUGGING_FACE_HUB_TOKEN": "",
            }
        return common | {
            "MODELSCOPE_ENDPOINT": self.url,
            "MODELSCOPE_CACHE": f"{folder / 'modelscope'}",
            "MODELSCOPE_HOME": f"{folder / 'modelscope-home'}",
            "MODELSCOPE_API_TOKEN": "",
        }

    def commit(self, repo_id: str, revision: str | None = None) -> str:
        """Find the hash of the commit that a branch or tag is at."""
        repository = self.repositories[repo_id]
        return _commit(repository.files if revision is None else repository.revisions[revision])

    def stop(self) -> None:
        """Refuse connections from now on, and end those that are open. A second call does nothing."""
        if not self.stopping.is_set():
            self.stopping.set()
            self._server.shutdown()
            self._server.server_close()
            self._thread.join()

    def __enter__(self) -> HubServer:
        self._thread.start()
        return self

    def __exit__(self, kind: type[BaseException] | None, error: BaseException | None, tb: TracebackType | None) -> None:
        self.stop()


class _Server(ThreadingHTTPServer):
    """A server that handles requests in threads, and ignores clients that disconnect."""

    request_queue_size = 64

    def __init__(self, hub: HubServer, handler: type[_Handler]) -> None:
        self.hub = hub
        super().__init__(("127.0.0.1", 0), handler)

    def handle_error(self, request: Any, client_address: Any) -> None:
        if not isinstance(sys.exc_info()[1], ConnectionError):
            super().handle_error(request, client_address)


@dataclass(frozen=True)
class _File:
    name: str
    content: bytes | Path
    size: int
    sha256: str
    oid: str  # git's own

    @property
    def lfs(self) -> bool:
        return _is_lfs(self.name)

    def chunks(self, start: int, stop: int, wrong: bool) -> Iterator[bytes]:
        """Read a range; ``wrong``: with a wrong byte in the middle of the file."""
        with _open(self.content) as file:
            file.seek(start)
            for at in range(start, stop, CHUNK):
                chunk = bytearray(file.read(min(CHUNK, stop - at)))
                if wrong and at <= self.size // 2 < at + len(chunk):
                    chunk[self.size // 2 - at] ^= 1
                yield bytes(chunk)


def _open(content: bytes | Path) -> BinaryIO:
    return io.BytesIO(content) if isinstance(content, bytes) else content.open("rb")


def _is_lfs(name: str) -> bool:
    return Path(name).suffix in LFS_SUFFIXES


@functools.lru_cache(64)
def _digest(content: bytes | Path, _changed: int = 0) -> str:
    """SHA-256; a file is read again if its time of modification has changed."""
    digest = hashlib.sha256()
    with _open(content) as file:
        while chunk := file.read(1 << 20):
            digest.update(chunk)
    return digest.hexdigest()


def _git_oid(content: bytes) -> str:
    return hashlib.sha1(b"blob %d\0" % len(content) + content, usedforsecurity=False).hexdigest()


def _describe(name: str, content: bytes | Path) -> _File:
    if isinstance(content, bytes):
        size, sha256 = len(content), _digest(content)
    else:
        about = content.stat()
        size, sha256 = about.st_size, _digest(content, about.st_mtime_ns)
    if _is_lfs(name):
        stored = _pointer(sha256, size)
    else:
        stored = content if isinstance(content, bytes) else content.read_bytes()
    return _File(name, content, size, sha256, _git_oid(stored))


def _pointer(sha256: str, size: int) -> bytes:
    return f"version https://git-lfs.github.com/spec/v1\noid sha256:{sha256}\nsize {size}\n".encode()


def _commit(files: Files) -> str:
    """Compute the hash of a commit from its content, as git does."""
    lines = [f"{file.oid} {file.name}\n" for file in (_describe(*item) for item in sorted(files.items()))]
    return _git_oid("".join(lines).encode(errors="surrogateescape"))


def _folders(names: list[str]) -> list[str]:
    return sorted({f"{parent}" for name in names for parent in Path(name).parents} - {"."})


class _Refusal(Exception):  # noqa: N818
    """An answer with an error."""

    def __init__(self, status: int, code: str, message: str) -> None:
        super().__init__(message)
        self.status = status
        self.code = code


class _Handler(BaseHTTPRequestHandler):
    """A handler of requests: the common part of both hubs."""

    protocol_version = "HTTP/1.1"
    main: ClassVar[str]
    server: _Server

    def do_GET(self) -> None:
        hub = self.hub = self.server.hub
        hub.requests.append(Request(self.command, unquote(self.path.replace("+", " ")), self.headers.get("Range")))
        try:
            if hub.status is not None:
                raise _Refusal(hub.status, "", "The hub has a bad day")
            parts = urlsplit(self.path)
            self.query = {key: values[-1] for key, values in parse_qs(parts.query).items()}
            if match := re.fullmatch(r"/lfs/([^/]+/[^/]+)/([^/]+)/(.+)", parts.path):
                repo_id, revision, name = map(unquote, match.groups())
                self.send_file(self.find_file(self.find(repo_id), revision, name))
            else:
                self.route(parts.path)
        except _Refusal as refusal:
            self.refuse(refusal)
        if hub.stopping.is_set():
            self.close_connection = True

    do_HEAD = do_GET  # noqa: N815

    def route(self, path: str) -> None:
        """Answer a request by the hub's protocol."""
        raise NotImplementedError

    def refuse(self, refusal: _Refusal) -> None:
        """Answer with an error in the hub's form."""
        raise NotImplementedError

    def find(self, repo_id: str) -> Repository:
        """Find a repository."""
        raise NotImplementedError

    def find_files(self, repository: Repository, revision: str) -> dict[str, _File]:
        """Find the files of a branch, tag or commit."""
        known = {self.main: repository.files, **repository.revisions}
        files = known.get(revision)
        if files is None:
            files = next((each for each in known.values() if _commit(each) == revision), None)
        if files is None:
            raise _Refusal(404, "RevisionNotFound", f"Invalid rev id: {revision}")
        return {name: _describe(name, content) for name, content in files.items()}

    def find_file(self, repository: Repository, revision: str, name: str) -> _File:
        """Find a file of a revision."""
        try:
            return self.find_files(repository, revision)[name]
        except KeyError:
            raise _Refusal(404, "EntryNotFound", "Entry not found") from None

    def find_commit(self, repository: Repository, revision: str) -> str:
        """Find the hash of a revision."""
        return _commit({name: file.content for name, file in self.find_files(repository, revision).items()})

    def send_json(self, answer: object, status: int = 200, **headers: str) -> None:
        """Answer with JSON."""
        content = json.dumps(answer).encode()
        self.start(status, Content_Type="application/json; charset=utf-8", Content_Length=str(len(content)), **headers)
        if self.command != "HEAD":
            self.wfile.write(content)

    def redirect(self, repo_id: str, commit: str, file: _File, **headers: str) -> None:
        """Redirect the client to the second host, which has the LFS files."""
        url = f"http://localhost:{self.hub.port}/lfs/{repo_id}/{commit}/{quote(file.name)}"
        self.start(302, Location=url, Content_Length="0", **headers)

    def send_file(self, file: _File, **headers: str) -> None:
        """Send a file or the requested range, with the faults that are set."""
        hub = self.hub
        if file.lfs:
            headers = {"X_Linked_ETag": f'"{file.sha256}"', "X_Linked_Size": str(file.size), **headers}
        headers = {"ETag": f'"{file.sha256 if file.lfs else file.oid}"', "Accept_Ranges": "bytes", **headers}
        start, stop, status = 0, file.size, 200
        if match := re.fullmatch(r"bytes=(\d+)-(\d*)", self.headers.get("Range", "")):
            start, stop = int(match[1]), min(file.size, int(match[2] or file.size) + 1)
            status = 206
            if start >= stop:
                self.start(416, Content_Range=f"bytes */{file.size}", Content_Length="0")
                return
            headers["Content_Range"] = f"bytes {start}-{stop - 1}/{file.size}"
        length = stop - start
        self.start(status, Content_Type="application/octet-stream", Content_Length=str(length), **headers)
        if self.command == "HEAD":
            return
        if file.lfs and hub.cut_after is not None:
            stop, hub.cut_after = min(stop, start + hub.cut_after), None
        sent = 0
        for chunk in file.chunks(start, stop, file.lfs and hub.corrupt):
            if sent and file.lfs and hub.stopping.wait(hub.delay * CHUNK / 1e6):
                break
            self.wfile.write(chunk)
            sent += len(chunk)
        if sent < length:
            self.close_connection = True

    def start(self, status: int, **headers: str) -> None:
        """Send the head of an answer."""
        self.send_response(status)
        for name, value in headers.items():
            self.send_header(name.replace("_", "-"), value)
        self.end_headers()

    def log_message(self, *_: Any) -> None:
        """Log nothing."""


class HuggingFace(_Handler):
    """The protocol of huggingface.co."""

    main = "main"

    def route(self, path: str) -> None:
        if path == "/api/agent-harnesses":  # the client asks for this once a day
            self.send_json({"standardEnvVars": [], "harnesses": {}})
            return
        if match := re.fullmatch(r"/api/models/([^/]+/[^/]+)(?:/([a-z-]+)/([^/]+).*)?", path):
            repo_id, what, revision = unquote(match[1]), match[2] or "revision", unquote(match[3] or self.main)
            repository = self.find(repo_id)
            commit = self.find_commit(repository, revision)
            entries = {file.name: self.entry(file) for file in self.find_files(repository, revision).values()}
            if what == "revision":
                self.send_json(self.about(repo_id, repository, commit, list(entries)))
                return
            if what == "tree":
                folders = [
                    {"type": "directory", "oid": _git_oid(name.encode()), "size": 0, "path": name}
                    for name in _folders(list(entries))
                ]
                self.send_json([*folders, *entries.values()], X_Repo_Commit=commit)
                return
        elif match := re.fullmatch(r"/([^/]+/[^/]+)/resolve/([^/]+)/(.+)", path):
            repo_id, revision, name = map(unquote, match.groups())
            repository = self.find(repo_id)
            self.check_token(repo_id, repository)
            file = self.find_file(repository, revision, name)
            commit = self.find_commit(repository, revision)
            if file.lfs:
                linked = {"X_Linked_ETag": f'"{file.sha256}"', "X_Linked_Size": str(file.size)}
                self.redirect(repo_id, commit, file, X_Repo_Commit=commit, **linked)
            else:
                self.send_file(file, X_Repo_Commit=commit)
            return
        raise _Refusal(404, "", "Sorry, we can't find the page you are looking for.")

    def find(self, repo_id: str) -> Repository:
        """Find a repository; without a login, a missing one looks like a private one."""
        if repo_id in self.hub.repositories:
            return self.hub.repositories[repo_id]
        if self.headers.get("Authorization"):
            raise _Refusal(404, "RepoNotFound", "Repository not found")
        raise _Refusal(401, "RepoNotFound", "Invalid username or password.")

    def check_token(self, repo_id: str, repository: Repository) -> None:
        """Refuse files of a gated repository; its list of files is public."""
        given = self.headers.get("Authorization")
        if repository.gated and (self.hub.token is None or given != f"Bearer {self.hub.token}"):
            message = f"Access to model {repo_id} is restricted"
            if given:
                raise _Refusal(403, "GatedRepo", f"{message} and you are not in the authorized list.")
            raise _Refusal(
                401, "GatedRepo", f"{message}. You must have access to it and be authenticated to access it."
            )

    def refuse(self, refusal: _Refusal) -> None:
        headers = {"X_Error_Message": str(refusal)}
        if refusal.code:
            headers["X_Error_Code"] = refusal.code
        self.send_json({"error": str(refusal)}, refusal.status, **headers)

    def about(self, repo_id: str, repository: Repository, commit: str, names: list[str]) -> dict[str, Any]:
        """Make the description of a model."""
        return {
            "_id": "621ffdc036468d709f17434d",
            "id": repo_id,
            "modelId": repo_id,
            "author": repo_id.partition("/")[0],
            "sha": commit,
            "lastModified": f"{DATE:%Y-%m-%dT%H:%M:%S.000Z}",
            "createdAt": f"{DATE:%Y-%m-%dT%H:%M:%S.000Z}",
            "private": False,
            "gated": "auto" if repository.gated else False,
            "disabled": False,
            "downloads": 0,
            "likes": 0,
            "tags": [],
            "siblings": [{"rfilename": name} for name in names],
        }

    def entry(self, file: _File) -> dict[str, Any]:
        """Make a file's line in a list."""
        entry: dict[str, Any] = {"type": "file", "oid": file.oid, "size": file.size, "path": file.name}
        if file.lfs:
            pointer = _pointer(file.sha256, file.size)
            entry["lfs"] = {"oid": file.sha256, "size": file.size, "pointerSize": len(pointer)}
        return entry


class ModelScope(_Handler):
    """The protocol of modelscope.cn."""

    main = "master"

    def route(self, path: str) -> None:
        if path == "/api/v1/repos/internalAccelerationInfo":
            self.send_data({})
            return
        match = re.fullmatch(r"/api/v1/models/([^/]+/[^/]+)(/repo|/repo/files|/revisions)?", path)
        if match is None:
            raise _Refusal(404, "", "page not found")
        repo_id, what, revision = unquote(match[1]), match[2], self.query.get("Revision", self.main)
        repository = self.find(repo_id)
        self.check_token(repository)
        if what is None:
            owner, _, name = repo_id.partition("/")
            self.send_data({"Path": owner, "Name": name, "Revision": self.main})
        elif what == "/revisions":
            branches = [{"Revision": self.main, "CreatedAt": int(DATE.timestamp())}]
            tags = [{"Revision": name, "CreatedAt": int(DATE.timestamp())} for name in repository.revisions]
            self.send_data({"RevisionMap": {"Branches": branches, "Tags": tags}})
        elif what == "/repo/files":
            self.send_data({"Files": self.entries(repository, revision, self.query.get("Root", ""))})
        else:
            file = self.find_file(repository, revision, self.query.get("FilePath", ""))
            if file.lfs:
                self.redirect(repo_id, self.find_commit(repository, revision), file)
            else:
                self.send_file(file)

    def find(self, repo_id: str) -> Repository:
        """Find a repository."""
        try:
            return self.hub.repositories[repo_id]
        except KeyError:
            raise _Refusal(404, "10010205001", "获取模型信息失败，信息不存在") from None

    def check_token(self, repository: Repository) -> None:
        """Refuse all of a gated repository."""
        cookie = SimpleCookie(self.headers.get("Cookie", "")).get("m_session_id")
        given = cookie.value if cookie else self.headers.get("Authorization", "").removeprefix("Bearer ")
        if repository.gated and (self.hub.token is None or given != self.hub.token):
            if given:
                raise _Refusal(403, "10010103001", "access denied")
            raise _Refusal(401, "10010103001", "user not logged in")

    def refuse(self, refusal: _Refusal) -> None:
        code = int(refusal.code) if refusal.code.isdecimal() else refusal.status
        answer = {"Code": code, "Message": str(refusal), "RequestId": "0b1c9a2e", "Success": False}
        self.send_json(answer, refusal.status)

    def send_data(self, data: object) -> None:
        """Answer with data."""
        self.send_json({"Code": 200, "Data": data, "Message": "success", "RequestId": "0b1c9a2e", "Success": True})

    def entries(self, repository: Repository, revision: str, root: str) -> list[dict[str, Any]]:
        """List the entries of a folder; of a missing revision there are none, without an error."""
        try:
            files = self.find_files(repository, revision)
        except _Refusal:
            return []
        common = {"Revision": self.find_commit(repository, revision), "CommittedDate": int(DATE.timestamp())}
        entries: list[dict[str, Any]] = [
            {**common, "Type": "tree", "Name": Path(name).name, "Path": name, "Size": 0, "IsLFS": False, "Sha256": ""}
            for name in _folders(list(files))
        ]
        for name, file in files.items():
            about = {"Size": file.size, "IsLFS": file.lfs, "Sha256": file.sha256}
            entries.append({**common, "Type": "blob", "Name": Path(name).name, "Path": name, **about})
        if root and root != "/":
            entries = [entry for entry in entries if entry["Path"].startswith(f"{root.strip('/')}/")]
            if not entries:
                raise _Refusal(404, "10010205001", "信息不存在")
        return entries
