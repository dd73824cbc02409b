"""Requests to the dashboard of a Ray cluster on this machine."""

import json
import socket
import urllib.error
import urllib.request


class NotThere(Exception):
    """The dashboard does not answer, or refuses."""


def free_port():
    with socket.socket() as found:
        found.bind(("127.0.0.1", 0))
        return found.getsockname()[1]


class Dashboard:
    def __init__(self, port, token):
        self.port = port
        self.url = f"http://127.0.0.1:{port}"
        self._headers = {"Content-Type": "application/json"}
        if token:
            self._headers["Authorization"] = f"Bearer {token}"

    def get(self, path, body=None):
        """Read a page, or post to it; give its JSON."""
        data = None if body is None else json.dumps(body).encode()
        request = urllib.request.Request(f"{self.url}/{path}", data, self._headers)
        try:
            with urllib.request.urlopen(request, timeout=10) as answer:
                return json.loads(answer.read() or b"null")
        except (OSError, ValueError) as error:
            raise NotThere(str(error)) from error

    def nodes_alive(self):
        nodes = self.get("nodes?view=summary")["data"]["summary"]
        return sum(node["raylet"].get("state") == "ALIVE" for node in nodes)

    def submit(self, job_id, entrypoint):
        self.get("api/jobs/", {"entrypoint": entrypoint, "submission_id": job_id})

    def job(self, job_id):
        return self.get(f"api/jobs/{job_id}")

    def stop(self, job_id):
        self.get(f"api/jobs/{job_id}/stop", {})
