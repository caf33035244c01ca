"""A server that speaks as much of the Hugging Face hub's protocol as `huggingface_hub` needs to fetch a model."""

import hashlib
import json
import re
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from threading import Thread

COMMIT = "5" * 40


class HubServer:
    """A hub with one repository, on 127.0.0.1.

    `breaks` says after how many bytes the next answer with a file breaks off; `damaged` is sent in place of a file,
    whatever is said of it; `refusal`, a status and a code, is what is answered of the repository. `requests` has
    (method, path, range) of each.
    """

    def __init__(self, repository, folder):
        self.repository = repository
        self.files = {path.name: path.read_bytes() for path in folder.iterdir()}
        self.breaks, self.damaged, self.refusal, self.requests = {}, {}, None, []
        self.server = ThreadingHTTPServer(("127.0.0.1", 0), self.handler())
        self.server.daemon_threads = True
        self.url = f"http://127.0.0.1:{self.server.server_port}"

    def __enter__(self):
        Thread(target=self.server.serve_forever, args=(0.01,), daemon=True).start()
        return self

    def __exit__(self, *_):
        self.server.shutdown()
        self.server.server_close()

    def entry(self, name):
        """What the hub says of a file: git's hash, and of a large one that of its content."""
        content = self.files[name]
        entry = {"size": len(content), "oid": hashlib.sha1(b"blob %d\0" % len(content) + content).hexdigest()}
        if name.endswith(".safetensors"):
            entry["lfs"] = {"oid": hashlib.sha256(content).hexdigest(), "size": len(content), "pointerSize": 134}
        return entry

    def info(self):
        """The answer of `/api/models/OWNER/NAME`, with `?blobs=true`."""
        siblings = []
        for name in self.files:
            entry = self.entry(name)
            sibling = {"rfilename": name, "size": entry["size"], "blobId": entry["oid"]}
            if "lfs" in entry:
                lfs = entry["lfs"]
                sibling["lfs"] = {"sha256": lfs["oid"], "size": lfs["size"], "pointerSize": lfs["pointerSize"]}
            siblings.append(sibling)
        return {"id": self.repository, "sha": COMMIT, "siblings": siblings, "tags": [], "private": False}

    def tree(self):
        """The answer of `/api/models/OWNER/NAME/tree/COMMIT`."""
        return [{"type": "file", "path": name, **self.entry(name)} for name in self.files]

    def handler(self):
        """The class that answers."""
        hub = self

        class Handler(BaseHTTPRequestHandler):
            protocol_version = "HTTP/1.1"

            def log_message(self, *_):
                pass

            def do_HEAD(self):
                self.respond()

            def do_GET(self):
                self.respond()

            def respond(self):
                path = self.path.partition("?")[0]
                hub.requests.append((self.command, path, self.headers.get("Range")))
                api = f"/api/models/{hub.repository}"
                if hub.refusal is not None and hub.repository in path:
                    status, code = hub.refusal
                    self.send(status, b"{}", {"X-Error-Code": code})
                elif path in (api, f"{api}/revision/main"):
                    self.send(200, json.dumps(hub.info()).encode(), {"Content-Type": "application/json"})
                elif path.startswith(f"{api}/tree/"):
                    self.send(200, json.dumps(hub.tree()).encode(), {"Content-Type": "application/json"})
                elif found := re.fullmatch(rf"/{hub.repository}/resolve/(?:main|{COMMIT})/(.+)", path):
                    self.file(found[1])
                else:
                    self.send(404, b"{}", {"X-Error-Code": "RepoNotFound"})

            def file(self, name):
                if name not in hub.files:
                    return self.send(404, b"", {"X-Error-Code": "EntryNotFound", "X-Repo-Commit": COMMIT})
                entry = hub.entry(name)
                headers = {
                    "X-Repo-Commit": COMMIT,
                    "ETag": f'"{entry.get("lfs", entry)["oid"]}"',
                    "X-Linked-Size": str(entry["size"]),
                    "Accept-Ranges": "bytes",
                }
                content = hub.damaged.get(name, hub.files[name])
                if (start := self.headers.get("Range")) is None:
                    return self.send(200, content, headers, hub.breaks.pop(name, None) if self.is_get else None)
                first = int(start.removeprefix("bytes=").removesuffix("-"))
                headers["Content-Range"] = f"bytes {first}-{len(content) - 1}/{len(content)}"
                return self.send(206, content[first:], headers)

            @property
            def is_get(self):
                return self.command == "GET"

            def send(self, status, content, headers, n_bytes=None):
                self.send_response(status)
                for name, value in {**headers, "Content-Length": str(len(content))}.items():
                    self.send_header(name, value)
                self.end_headers()
                if self.is_get:
                    self.wfile.write(content[:n_bytes])
                if n_bytes is not None:
                    self.close_connection = True

        return Handler
