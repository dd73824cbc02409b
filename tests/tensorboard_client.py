"""TensorBoard's own server over logs, asked over HTTP."""

import json
import re
import subprocess
import sys
import time
import urllib.error
import urllib.request
from contextlib import contextmanager


@contextmanager
def tensorboard(location, folder):
    """Serve the logs of a location; what the server says goes into a folder."""
    command = [
        sys.executable, "-m", "search.tensorboard", "--logdir", str(location),
        "--host", "127.0.0.1", "--port", "0",
        "--reload_interval", "1", "--samples_per_plugin", "images=10",
    ]  # fmt: skip
    log = folder / "tensorboard.log"
    with log.open("w") as out, subprocess.Popen(command, stderr=out, stdout=out) as server:
        try:
            yield Client(log)
        finally:
            server.terminate()


class Client:
    def __init__(self, log) -> None:
        address = self.wait(lambda: re.search(r"http://127\.0\.0\.1:\d+", log.read_text()))
        self.address = address.group()

    def ask(self, path: str, body: dict | None = None):
        data = None if body is None else json.dumps(body).encode()
        request = urllib.request.Request(
            f"{self.address}/data/{path}", data, {"Content-Type": "application/json"}
        )
        with urllib.request.urlopen(request, timeout=20) as answer:
            return json.load(answer)

    def read(self, path: str) -> bytes:
        with urllib.request.urlopen(f"{self.address}/data/{path}", timeout=20) as answer:
            return answer.read()

    def wait(self, condition, seconds: float = 30):
        deadline = time.monotonic() + seconds
        while time.monotonic() < deadline:
            try:
                if found := condition():
                    return found
            except urllib.error.HTTPError:
                pass  # not loaded yet
            time.sleep(0.2)
        raise TimeoutError

    def sessions(self) -> dict[str, dict]:
        groups = self.ask(
            "plugin/hparams/session_groups",
            {
                "experimentName": "",
                "allowedStatuses": [
                    "STATUS_UNKNOWN", "STATUS_SUCCESS", "STATUS_FAILURE", "STATUS_RUNNING"
                ],
                "colParams": [],
                "startIndex": 0,
                "sliceSize": 1000,
            },
        )["sessionGroups"]  # fmt: skip
        assert all(len(group["sessions"]) == 1 for group in groups)
        return {group["name"]: group for group in groups}
