"""
A Hub on 127.0.0.1, in memory: repositories of models and datasets with branches and commits, regular and LFS files.

It speaks as much of the Hub's API as `huggingface_hub` needs to create, commit, list and download, without Xet:
clients set `HF_ENDPOINT` to its `url` and `HF_HUB_DISABLE_XET=1`. Faults that a test asks for happen once each.

    with HubServer() as hub:
        hub.fail("PUT /lfs/", "cut")  # the next upload of an LFS object breaks off in its middle
        ...
        hub.files("user/model")  # what the branch main holds
"""

import base64
import hashlib
import json
import re
import socket
import threading
from dataclasses import dataclass, field
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from typing import Any
from urllib.parse import parse_qs, unquote, urlsplit


USER, TOKEN = "tester", "hf_token_of_the_tester"

LFS_SUFFIXES = (".safetensors", ".bin", ".pt", ".parquet", ".arrow", ".onnx")
BIG_FILE = 10_000_000  # bytes; beyond, the Hub takes any file as LFS

REPOSITORY = r"(?P<kind>models|datasets)/(?P<name>[^/]+/[^/]+)"
REVISION = r"(?P<revision>[^/]+)"
ROUTES = {
    "whoami": r"GET /api/whoami-v2",
    "create_repository": r"POST /api/repos/create",
    "validate_yaml": r"POST /api/validate-yaml",
    "preupload": rf"POST /api/{REPOSITORY}/preupload/{REVISION}",
    "commit": rf"POST /api/{REPOSITORY}/commit/{REVISION}",
    "create_branch": rf"POST /api/{REPOSITORY}/branch/{REVISION}",
    "paths_info": rf"POST /api/{REPOSITORY}/paths-info/{REVISION}",
    "tree": rf"GET /api/{REPOSITORY}/tree/{REVISION}(/(?P<path>.+))?",
    "refs": rf"GET /api/{REPOSITORY}/refs",
    "info": rf"GET /api/{REPOSITORY}(/revision/{REVISION})?",
    "lfs_batch": r"POST /((?P<kind>datasets)/)?(?P<name>[^/]+/[^/]+)\.git/info/lfs/objects/batch",
    "lfs_put": r"PUT /lfs/(?P<oid>[0-9a-f]{64})",
    "lfs_verify": r"POST /lfs/(?P<oid>[0-9a-f]{64})/verify",
    "resolve": rf"(GET|HEAD) /((?P<kind>datasets)/)?(?P<name>[^/]+/[^/]+)/resolve/{REVISION}/(?P<path>.+)",
}
ROUTES = {name: re.compile(pattern) for name, pattern in ROUTES.items()}
NEEDS_TOKEN = {name for name, pattern in ROUTES.items() if not pattern.pattern.startswith(("GET", "(GET", "PUT"))}
NEEDS_TOKEN |= {"whoami"}


class HubError(Exception):
    """An answer other than success."""

    def __init__(self, status: int, message: str, code: str | None = None, headers: dict | None = None, **body: str):
        super().__init__(message)
        self.status = status
        self.headers = {"X-Error-Message": message, **({"X-Error-Code": code} if code else {}), **(headers or {})}
        self.body = {"error": message, **body}


@dataclass
class Commit:
    """A state of a repository: every path and its content; `lfs` names those that are LFS objects."""

    oid: str
    message: str
    files: dict[str, bytes]
    lfs: frozenset[str] = frozenset()


@dataclass
class Repository:
    """Commits by their id, and the ids of each branch's commits, oldest first."""

    commits: dict[str, Commit] = field(default_factory=dict)
    branches: dict[str, list[str]] = field(default_factory=dict)

    def append(self, branch: str, message: str, files: dict[str, bytes], lfs: frozenset[str]) -> Commit:
        content = json.dumps([message, len(self.commits), {path: blob_id(files[path]) for path in sorted(files)}])
        commit = Commit(hashlib.sha1(content.encode()).hexdigest(), message, files, lfs)
        self.commits[commit.oid] = commit
        self.branches.setdefault(branch, []).append(commit.oid)
        return commit

    def at(self, revision: str) -> Commit:
        if revision in self.branches:
            return self.commits[self.branches[revision][-1]]
        if revision in self.commits:
            return self.commits[revision]
        raise HubError(404, f"Invalid rev id: {revision}", "RevisionNotFound")


class HubServer(ThreadingHTTPServer):
    """The server; see the module. `requests` lists what was asked, such as `"GET /api/whoami-v2"`."""

    daemon_threads = True

    def __init__(self):
        super().__init__(("127.0.0.1", 0), _Handler)
        self.url = f"http://127.0.0.1:{self.server_port}"
        self.lock = threading.RLock()
        self.repositories: dict[tuple[str, str], Repository] = {}
        self.lfs_objects: dict[str, bytes] = {}
        self.faults: list[tuple[str, int | str]] = []
        self.requests: list[str] = []

    def __enter__(self):
        threading.Thread(target=self.serve_forever, kwargs={"poll_interval": 0.02}, daemon=True).start()
        return self

    def __exit__(self, *exception):
        self.shutdown()
        self.server_close()

    def fail(self, request: str, fault: int | str) -> None:
        """
        The next request that matches the regular expression `request`, such as `"POST .*/commit/"`, fails: with a
        status, or as `"cut"`: the connection ends in the middle of the upload (of the download, where a GET is
        asked for), or as `"corrupt"`: one byte of what is uploaded changes on its way.
        """
        self.faults.append((request, fault))

    def files(self, name: str, kind: str = "models", revision: str = "main") -> dict[str, bytes]:
        """Every path of a repository, and its content."""
        return dict(self.repositories[kind, name].at(revision).files)

    def messages(self, name: str, kind: str = "models", branch: str = "main") -> list[str]:
        """The messages of a branch's commits, oldest first."""
        repository = self.repositories[kind, name]
        return [repository.commits[oid].message for oid in repository.branches[branch]]

    def take_fault(self, request: str) -> int | str | None:
        with self.lock:
            for number, (pattern, fault) in enumerate(self.faults):
                if re.match(pattern, request):
                    del self.faults[number]
                    return fault
        return None


class _Handler(BaseHTTPRequestHandler):
    """One method for each route; it returns what is answered as JSON."""

    protocol_version = "HTTP/1.1"
    server: HubServer

    def log_message(self, *args):
        pass

    def handle_request(self) -> None:
        url = urlsplit(self.path)
        request, self.query = f"{self.command} {unquote(url.path)}", parse_qs(url.query)
        self.server.requests.append(request)
        fault = self.server.take_fault(request)
        length = int(self.headers.get("Content-Length") or 0)
        if fault == "cut" and self.command in ("POST", "PUT"):
            self.rfile.read(length // 2)
            self.hang_up()
            return
        if "chunked" in self.headers.get("Transfer-Encoding", ""):
            self.body = self.read_chunks()
        else:
            self.body = self.rfile.read(length)
        if fault == "corrupt":
            self.body = self.body[:-1] + bytes([self.body[-1] ^ 1])
        self.cut_answer = fault == "cut"
        try:
            if isinstance(fault, int):
                raise HubError(fault, f"refused with {fault}")
            for name, pattern in ROUTES.items():
                match = pattern.fullmatch(f"{self.command} {url.path}")
                if match is None:
                    continue
                self.check_token(required=name in NEEDS_TOKEN)
                found = {key: unquote(value) for key, value in match.groupdict().items() if value is not None}
                with self.server.lock:
                    answer = getattr(self, name)(**found)
                if answer is not None:  # `resolve` answers by itself
                    self.answer(200, json.dumps(answer).encode(), {"Content-Type": "application/json"})
                return
            raise HubError(404, f"{request} is not part of this server")
        except HubError as error:
            self.answer(error.status, json.dumps(error.body).encode(), error.headers)

    do_GET = do_HEAD = do_POST = do_PUT = handle_request  # noqa: N815

    def read_chunks(self) -> bytes:
        chunks = []
        while size := int(self.rfile.readline(), 16):
            chunks.append(self.rfile.read(size))
            self.rfile.readline()
        self.rfile.readline()
        return b"".join(chunks)

    def answer(self, status: int, body: bytes, headers: dict[str, str]) -> None:
        self.send_response(status)
        for name, value in {"Content-Length": str(len(body)), **headers}.items():
            self.send_header(name, value)
        self.end_headers()
        if self.command == "HEAD":
            return
        if self.cut_answer:
            self.wfile.write(body[: len(body) // 2])
            self.hang_up()
            return
        self.wfile.write(body)

    def hang_up(self) -> None:
        self.close_connection = True
        self.connection.shutdown(socket.SHUT_RDWR)

    def check_token(self, required: bool) -> None:
        token = self.headers.get("Authorization", "").removeprefix("Bearer ")
        if token and token != TOKEN:
            raise HubError(401, "Invalid credentials in Authorization header")
        if required and not token:
            raise HubError(401, "Invalid username or password.")

    def repository(self, kind: str, name: str) -> Repository:
        if (kind, name) not in self.server.repositories:
            raise HubError(404, "Repository not found", "RepoNotFound")
        return self.server.repositories[kind, name]

    # The account and its repositories

    def whoami(self) -> dict:
        return {"type": "user", "name": USER, "orgs": [], "auth": {"accessToken": {"role": "write"}}}

    def create_repository(self) -> dict:
        wanted = json.loads(self.body)
        kind = (wanted.get("type") or "model") + "s"
        name = f"{wanted.get('organization') or USER}/{wanted['name']}"
        url = f"{self.server.url}/{'' if kind == 'models' else kind + '/'}{name}"
        if (kind, name) in self.server.repositories:
            raise HubError(409, f"You already created this {kind.removesuffix('s')} repo", url=url)
        repository = self.server.repositories[kind, name] = Repository()
        repository.append("main", "initial commit", {".gitattributes": b""}, frozenset())
        return {"url": url, "name": name}

    def validate_yaml(self) -> dict:
        return {"errors": [], "warnings": []}

    # Uploads

    def preupload(self, kind: str, name: str, revision: str) -> dict:
        commit = self.repository(kind, name).at(revision)
        files = []
        for item in json.loads(self.body)["files"]:
            path, content = item["path"], commit.files.get(item["path"])
            lfs = path.endswith(LFS_SUFFIXES) or item["size"] > BIG_FILE or b"\0" in base64.b64decode(item["sample"])
            oid = None if content is None else sha256(content) if path in commit.lfs else blob_id(content)
            mode = "lfs" if lfs else "regular"
            files.append({"path": path, "uploadMode": mode, "shouldIgnore": False, "oid": oid})
        return {"files": files}

    def lfs_batch(self, name: str, kind: str = "models") -> dict:
        self.repository(kind, name)
        objects = []
        for item in json.loads(self.body)["objects"]:
            href = f"{self.server.url}/lfs/{item['oid']}"
            actions = {"upload": {"href": href}, "verify": {"href": f"{href}/verify"}}
            stored = item["oid"] in self.server.lfs_objects
            objects.append({"oid": item["oid"], "size": item["size"], **({} if stored else {"actions": actions})})
        return {"transfer": "basic", "objects": objects}

    def lfs_put(self, oid: str) -> dict:
        self.server.lfs_objects[oid] = self.body  # like a bucket: checked only when it is verified
        return {}

    def lfs_verify(self, oid: str) -> dict:
        stored = self.server.lfs_objects.get(oid, b"")
        if sha256(stored) != oid or len(stored) != json.loads(self.body)["size"]:
            self.server.lfs_objects.pop(oid, None)
            raise HubError(400, f"The SHA-256 of what arrived is {sha256(stored)}, expected {oid}")
        return {}

    def commit(self, kind: str, name: str, revision: str) -> dict:
        repository = self.repository(kind, name)
        base = repository.at(revision)
        header, *operations = [json.loads(line) for line in self.body.splitlines()]
        if header["value"].get("parentCommit", base.oid) != base.oid:
            raise HubError(412, "A commit has happened since. Please refresh and try again.")
        files, lfs = dict(base.files), set(base.lfs)
        for operation in operations:
            value = operation["value"]
            path = value["path"]
            if operation["key"] == "deletedFile":
                del files[path]
            elif operation["key"] == "deletedFolder":
                files = {other: content for other, content in files.items() if not other.startswith(path)}
            elif operation["key"] == "file":
                files[path] = base64.b64decode(value["content"])
                lfs.discard(path)
            elif operation["key"] == "lfsFile":
                if value["oid"] not in self.server.lfs_objects:
                    raise HubError(400, f"{path}: the LFS object {value['oid']} was not uploaded")
                files[path] = self.server.lfs_objects[value["oid"]]
                lfs.add(path)
        commit = repository.append(revision, header["value"]["summary"], files, frozenset(lfs & set(files)))
        return {"success": True, "commitOid": commit.oid, "commitUrl": f"{self.server.url}/{name}/commit/{commit.oid}"}

    def create_branch(self, kind: str, name: str, revision: str) -> dict:
        repository = self.repository(kind, name)
        if revision in repository.branches:
            raise HubError(409, f"Reference already exists: {revision}")
        start = json.loads(self.body or b"{}").get("startingPoint") or "main"
        repository.branches[revision] = [repository.at(start).oid]
        return {}

    # Lists and downloads

    def info(self, kind: str, name: str, revision: str = "main") -> dict:
        commit = self.repository(kind, name).at(revision)
        siblings = [self.entry(commit, path) for path in sorted(commit.files)]
        siblings = [{"rfilename": item["path"], "blobId": item["oid"], "size": item["size"]} for item in siblings]
        return {
            "_id": name,
            "id": name,
            "sha": commit.oid,
            "private": False,
            "gated": False,
            "disabled": False,
            "tags": [],
            "downloads": 0,
            "likes": 0,
            "lastModified": "2024-01-01T00:00:00.000Z",
            "createdAt": "2024-01-01T00:00:00.000Z",
            "siblings": siblings,
        }

    def refs(self, kind: str, name: str) -> dict:
        branches = self.repository(kind, name).branches
        found = [{"name": key, "ref": f"refs/heads/{key}", "targetCommit": oids[-1]} for key, oids in branches.items()]
        return {"branches": found, "tags": [], "converts": []}

    def tree(self, kind: str, name: str, revision: str, path: str = "") -> list[dict]:
        commit = self.repository(kind, name).at(revision)
        prefix = f"{path}/" if path else ""
        inside = [other for other in sorted(commit.files) if other.startswith(prefix)]
        if path and not inside:
            raise HubError(404, f"{path} does not exist on {revision!r}", "EntryNotFound")
        folders = {prefix + other[len(prefix) :].split("/")[0] for other in inside if "/" in other[len(prefix) :]}
        if "true" in str(self.query.get("recursive")).lower():
            folders = {other[: cut.start()] for other in inside for cut in re.finditer("/", other)}
            folders = {folder for folder in folders if folder.startswith(prefix)}
        else:
            inside = [other for other in inside if "/" not in other[len(prefix) :]]
        entries = [
            {"type": "directory", "path": folder, "oid": blob_id(folder.encode())} for folder in sorted(folders)
        ]
        return entries + [self.entry(commit, other) for other in inside]

    def paths_info(self, kind: str, name: str, revision: str) -> list[dict]:
        commit = self.repository(kind, name).at(revision)
        wanted = (
            json.loads(self.body)["paths"] if self.body.startswith(b"{") else parse_qs(self.body.decode())["paths"]
        )
        return [self.entry(commit, path) for path in wanted if path in commit.files]

    def entry(self, commit: Commit, path: str) -> dict[str, Any]:
        content = commit.files[path]
        entry = {"type": "file", "path": path, "size": len(content), "oid": blob_id(content)}
        if path in commit.lfs:
            entry["lfs"] = {"oid": sha256(content), "size": len(content), "pointerSize": 130}
        return entry

    def resolve(self, name: str, revision: str, path: str, kind: str = "models") -> None:
        commit = self.repository(kind, name).at(revision)
        if path not in commit.files:
            raise HubError(404, "Entry not found", "EntryNotFound", {"X-Repo-Commit": commit.oid})
        content = commit.files[path]
        headers = {
            "X-Repo-Commit": commit.oid,
            "ETag": f'"{sha256(content) if path in commit.lfs else blob_id(content)}"',
            "Accept-Ranges": "bytes",
        }
        wanted = re.fullmatch(r"bytes=(\d+)-(\d*)", self.headers.get("Range", ""))
        if wanted is None:
            self.answer(200, content, headers)
            return
        start = int(wanted[1])
        part = content[start : int(wanted[2]) + 1 if wanted[2] else None]
        headers["Content-Range"] = f"bytes {start}-{start + len(part) - 1}/{len(content)}"
        self.answer(206, part, headers)


def sha256(content: bytes) -> str:
    """The id of an LFS object."""
    return hashlib.sha256(content).hexdigest()


def blob_id(content: bytes) -> str:
    """Git's id of a file."""
    return hashlib.sha1(b"blob %d\0" % len(content) + content).hexdigest()
