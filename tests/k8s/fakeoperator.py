"""KubeRay's operator and the kubelet in one, for one machine without containers.

It watches RayJobs through the API, starts their clusters as real `ray start` processes with what
the RayJob's own spec says (start parameters, resources, variables, token), submits the entrypoint
to the dashboard, and writes the status as KubeRay 1.7 does: also when the head is lost (the same
submission again, from zero, not counted as a failure), when the driver fails (backoffLimit), and
when the job is deleted.

Where a pod would mount a volume, the paths are rewritten to folders of this machine. All processes
are ended by their own ids.
"""

import base64
import contextlib
import os
import re
import secrets
import shutil
import signal
import subprocess
import sys
import tempfile
import threading
import time
from pathlib import Path

from fakeapi import now
from ray_dashboard import Dashboard, NotThere, free_port

FINALIZER = "ray.io/rayjob-finalizer"
OBJECT_STORE_BYTES = 80 * 2**20
BIN = Path(sys.executable).parent
POD = "FAKE_POD"
"""A variable by which the processes of a pod are told from others."""


class Mounts:
    """Folders of this machine by the paths under which the pods of a job see them."""

    def __init__(self, folders):
        self.folders = {path: str(folder) for path, folder in folders.items()}
        for folder in self.folders.values():
            Path(folder).mkdir(parents=True, exist_ok=True)

    def on_host(self, text):
        """Give text with the pods' paths replaced by this machine's."""
        paths = "|".join(map(re.escape, self.folders))
        return re.sub(rf"(?<![\w/.-])({paths})(?![\w-])", lambda m: self.folders[m[1]], text)

    def sweep_on_host(self, text):
        """Give a sweep file whose storage is a folder of this machine; the rest stays."""
        return re.sub(r"(?m)^storage: .*$", lambda m: self.on_host(m[0]), text)


class RayProcesses:
    """The pods of one RayCluster: a head and its workers, each a process group."""

    def __init__(self, spec, environment, mounts):
        self.spec, self.mounts = spec, mounts
        self.folder = tempfile.mkdtemp(prefix="r", dir="/tmp")  # short: socket paths are limited
        self.port = free_port()
        token = environment.get("RAY_AUTH_TOKEN")
        self.dashboard = Dashboard(free_port(), token)
        self.environment = {**os.environ, "PATH": f"{BIN}:{os.environ['PATH']}", **environment}
        self.environment.pop("RAY_ADDRESS", None)
        self.processes = []

    def start(self):
        head = self.spec["headGroupSpec"]
        self._spawn("head", head, [
            "--head", f"--port={self.port}", "--dashboard-host=127.0.0.1",
            f"--dashboard-port={self.dashboard.port}", f"--temp-dir={self.folder}/s",
            f"--ray-client-server-port={free_port()}",
        ])  # fmt: skip
        self._wait(lambda: self.dashboard.get("api/version"))
        for group in self.spec["workerGroupSpecs"]:
            for i in range(group["replicas"]):
                self._spawn(
                    f"{group['groupName']}-{i}", group, [f"--address=127.0.0.1:{self.port}"]
                )
        self._wait(lambda: self.dashboard.nodes_alive() == len(self.processes))
        return len(self.processes) - 1

    def head_is_alive(self):
        return self.processes[0].poll() is None

    def kill_head(self):
        self._kill_pod(0)

    def close(self):
        for index in range(len(self.processes)):
            self._kill_pod(index)
        shutil.rmtree(self.folder, ignore_errors=True)

    def _spawn(self, name, group, arguments):
        container = group["template"]["spec"]["containers"][0]
        parameters = {**group["rayStartParams"]}
        parameters.pop("dashboard-host", None)
        limits = container["resources"]["limits"]
        parameters.setdefault("num-cpus", limits["cpu"])
        flags = [f"--{key}={value}" for key, value in parameters.items()]
        with Path(self.folder, f"{name}.log").open("wb") as log:
            process = subprocess.Popen(
                [
                    str(BIN / "ray"), "start", "--block", "--disable-usage-stats",
                    "--node-ip-address=127.0.0.1", f"--object-store-memory={OBJECT_STORE_BYTES}",
                    f"--dashboard-agent-listen-port={free_port()}", *arguments, *flags,
                ],
                env={
                    **self.environment, **self._variables(container),
                    POD: self._pod(len(self.processes)),
                },
                stdout=log, stderr=log, start_new_session=True,
            )  # fmt: skip
        self.processes.append(process)

    def _variables(self, container):
        """Give the variables of a container, expanded as the kubelet does, with our paths."""
        found = {}
        for entry in container["env"]:
            value = re.sub(
                r"\$\$|\$\((\w+)\)",
                lambda m: "$" if m[0] == "$$" else found.get(m[1], m[0]),
                entry["value"],
            )
            found[entry["name"]] = self.mounts.on_host(value)
        return found

    def _wait(self, ready, seconds=120):
        deadline = time.monotonic() + seconds
        while time.monotonic() < deadline:
            if not self.head_is_alive():
                raise RuntimeError(Path(self.folder, "head.log").read_text()[-2000:])
            with contextlib.suppress(NotThere):
                if ready():
                    return
            time.sleep(0.2)
        raise TimeoutError(f"Ray did not start: {self.folder}")

    def _pod(self, index):
        return f"{self.folder}/{index}"

    def _kill_pod(self, index):
        """End all processes of a pod, the driver too, which has a process group of its own."""
        with contextlib.suppress(ProcessLookupError, PermissionError):
            os.killpg(self.processes[index].pid, signal.SIGKILL)
        self.processes[index].wait()
        mark = f"{POD}={self._pod(index)}".encode()
        for entry in Path("/proc").glob("[0-9]*"):
            with contextlib.suppress(OSError):
                if mark in (entry / "environ").read_bytes().split(b"\0"):
                    os.kill(int(entry.name), signal.SIGKILL)


class FakeOperator:
    """Runs every RayJob of a server double; `with FakeOperator(kube, mounts) as operator: ...`."""

    def __init__(self, kube, mounts, namespace="default"):
        self.kube, self.mounts, self.namespace = kube, mounts, namespace
        self.clusters = {}
        """Processes by the name of the job."""
        self.errors = []
        self._threads = {}
        self._ending = threading.Event()

    def __enter__(self):
        self._watcher = threading.Thread(target=self._watch)
        self._watcher.start()
        return self

    def __exit__(self, *_):
        self._ending.set()
        self._watcher.join()
        for thread in self._threads.values():
            thread.join()

    def _watch(self):
        while not self._ending.wait(0.2):
            for name in self.kube.names("rayjobs"):
                job = self.kube.object("rayjobs", name, self.namespace)
                uid = job and job["metadata"]["uid"]
                if uid and uid not in self._threads:
                    self._threads[uid] = threading.Thread(target=self._run, args=(name, uid))
                    self._threads[uid].start()

    # --- one job -------------------------------------------------------------------------------

    def _run(self, name, uid):
        try:
            self._set_finalizers(name, [FINALIZER])
            self._reconcile(name, uid)
        except Exception as error:
            self.errors.append(repr(error))
            if self._job(name, uid):
                self._status(name, jobDeploymentStatus="Failed", reason="SubmissionFailed",
                             message=repr(error)[:500])  # fmt: skip
        finally:
            self._close(name)
            job = self._job(name, uid)
            if job and "deletionTimestamp" in job["metadata"]:
                self._set_finalizers(name, [])

    def _reconcile(self, name, uid):
        failures = 0
        while not self._ending.is_set() and (job := self._job(name, uid)):
            status = job.get("status") or {}
            if "deletionTimestamp" in job["metadata"]:
                self._stop_driver(name, status)
                return
            match status.get("jobDeploymentStatus") or "":
                case "" | "Retrying":
                    suffix = secrets.token_hex(3)[:5]
                    self._status(
                        name, jobDeploymentStatus="Initializing", jobStatus="", startTime=now(),
                        jobId=f"{name}-{suffix}", rayClusterName=f"{name}-{suffix}",
                    )  # fmt: skip
                case "Initializing":
                    self._start(name, job)
                case "Running" if not self.clusters[name].head_is_alive():
                    # The head pod is made anew, and the same submission starts from zero.
                    self._close(name)
                    self._start(name, job)
                case "Running":
                    failures = self._look_at_driver(name, job, failures)
                case _:
                    pass  # ended: waits to be deleted
            time.sleep(0.2)

    def _start(self, name, job):
        status, spec = job["status"], job["spec"]
        self._mount_config_map(spec["rayClusterSpec"])
        cluster = RayProcesses(spec["rayClusterSpec"], self._token(spec), self.mounts)
        self.clusters[name] = cluster
        workers = cluster.start()
        cluster.dashboard.submit(status["jobId"], self.mounts.on_host(spec["entrypoint"]))
        service = f"{status['rayClusterName']}-head-svc"
        self.kube.services[self.namespace, service] = cluster.dashboard.url
        self._status(
            name, jobDeploymentStatus="Running", jobStatus="PENDING",
            dashboardURL=f"{service}.{self.namespace}.svc.cluster.local:8265",
            rayClusterStatus={"state": "ready", "readyWorkerReplicas": workers},
        )  # fmt: skip

    def _look_at_driver(self, name, job, failures):
        try:
            found = self.clusters[name].dashboard.job(job["status"]["jobId"])
        except NotThere:
            return failures
        message = (found.get("message") or "")[:500]
        if found["status"] == "FAILED":
            failures += 1
            again = failures <= job["spec"]["backoffLimit"]
            self._status(
                name, jobDeploymentStatus="Retrying" if again else "Failed", failed=failures,
                jobStatus="" if again else "FAILED", reason="AppFailed", message=message,
                endTime=now(),
            )  # fmt: skip
            if again:
                self._close(name)
        elif found["status"] in ("SUCCEEDED", "STOPPED"):
            self._status(name, jobDeploymentStatus="Complete", jobStatus=found["status"],
                         message=message, endTime=now())  # fmt: skip
        elif found["status"] != job["status"].get("jobStatus"):
            self._status(name, jobStatus=found["status"])
        return failures

    def _stop_driver(self, name, status):
        """Stop the driver as KubeRay does before it takes the pods away."""
        if cluster := self.clusters.get(name):
            with contextlib.suppress(NotThere):
                cluster.dashboard.stop(status.get("jobId"))

    def _close(self, name):
        if cluster := self.clusters.pop(name, None):
            cluster.close()

    # --- what a kubelet does -------------------------------------------------------------------

    def _mount_config_map(self, cluster):
        pod = cluster["headGroupSpec"]["template"]["spec"]
        volumes = {volume["name"]: volume for volume in pod["volumes"]}
        for mount in pod["containers"][0]["volumeMounts"]:
            source = volumes[mount["name"]].get("configMap")
            if source:
                data = self.kube.object("configmaps", source["name"], self.namespace)["data"]
                for file, text in data.items():
                    path = Path(self.mounts.folders[mount["mountPath"]], file)
                    path.write_text(self.mounts.sweep_on_host(text))

    def _token(self, spec):
        options = spec["rayClusterSpec"]["authOptions"]
        secret = self.kube.object("secrets", options["secretName"], self.namespace)
        token = base64.b64decode(secret["data"]["auth_token"]).decode()
        return {"RAY_AUTH_MODE": options["mode"], "RAY_AUTH_TOKEN": token}

    # --- the API server ------------------------------------------------------------------------

    def _job(self, name, uid):
        job = self.kube.object("rayjobs", name, self.namespace)
        return job if job and job["metadata"]["uid"] == uid else None

    def _status(self, name, **status):
        with contextlib.suppress(KeyError):  # deleted meanwhile
            self.kube.set_status("rayjobs", name, self.namespace, **status)

    def _set_finalizers(self, name, finalizers):
        self.kube.set_finalizers("rayjobs", name, finalizers, self.namespace)
