"""Sending, following and taking away, against the server double."""

import base64
import json
import threading

import pytest
from decoding import KINDS, schemas_if_here
from fakeapi import FakeKube
from made_sweeps import connected, made

from k8s.errors import AccessRefused, NotInstalled, ObjectRefused, SweepFailed
from k8s.manifests import sweep_manifests
from k8s.schedule import Schedule, schedule_manifests
from k8s.status import observe, observe_all, progress, progress_in, study_location
from k8s.submit import (
    follow_log,
    resume,
    schedule,
    stop,
    submit,
    submit_night,
    unschedule,
    wait,
)
from search.errors import SpecError, SweepError


@pytest.fixture
def kube():
    with FakeKube(schemas_if_here()) as kube:
        yield kube


@pytest.fixture
def cluster(kube, tmp_path, monkeypatch):
    return connected(tmp_path, kube, monkeypatch)


@pytest.fixture
def spec(tmp_path):
    return made(tmp_path)


def sent(kube):
    """Give kind and name of all objects that are there."""
    plurals = (
        "configmaps", "cronjobs", "deployments", "networkpolicies", "poddisruptionbudgets",
        "rayjobs", "rolebindings", "roles", "secrets", "serviceaccounts", "services",
    )  # fmt: skip
    return {f"{plural}/{name}" for plural in plurals for name in kube.names(plural)}


# --- submit --------------------------------------------------------------------------------------


def test_submit_sends_what_render_prints_and_the_token(kube, cluster, spec):
    assert submit(cluster, spec) is True
    rendered = sweep_manifests(spec, spec.cluster)
    assert len(sent(kube)) == len(rendered) + 1
    assert "secrets/digits-token" in sent(kube)
    bodies = [
        json.loads(body)
        for method, path, body in kube.requests
        if method in ("POST", "PATCH") and "dryRun" not in path and "secrets" not in path
    ]
    assert bodies == rendered


def test_everything_is_tried_before_anything_is_made(kube, cluster, spec):
    submit(cluster, spec)
    tried = [path for method, path, _ in kube.requests if method in ("POST", "PATCH")]
    wet = [i for i, path in enumerate(tried) if "dryRun=All" not in path]
    dry = [i for i, path in enumerate(tried) if "dryRun=All" in path]
    assert max(dry) < min(wet)
    assert all("fieldValidation=Strict" in path for path in tried)


def test_a_refusal_leaves_nothing_behind(kube, cluster, spec):
    kube.denied = {("create", "rayjobs")}
    with pytest.raises(AccessRefused, match="may not create rayjobs"):
        submit(cluster, spec)
    assert sent(kube) == set()
    kube.denied, kube.kuberay = set(), False
    with pytest.raises(NotInstalled):
        submit(cluster, spec)
    assert sent(kube) == set()


def test_the_token_is_random_kept_and_nowhere_else(kube, cluster, spec):
    submit(cluster, spec)
    secret = kube.object("secrets", "digits-token")["data"]["auth_token"]
    token = base64.b64decode(secret).decode()
    assert len(token) == 64
    for method, path, body in kube.requests:
        if "secrets" not in path:
            assert token.encode() not in body + path.encode()
            assert secret.encode() not in body
        assert method != "PATCH" or "secrets" not in path
    stop(cluster, "digits")
    submit(cluster, spec)
    assert kube.object("secrets", "digits-token")["data"]["auth_token"] == secret


def test_a_job_that_is_there_is_left_as_it_is(kube, cluster, spec, tmp_path):
    submit(cluster, spec)
    before = {name: kube.object("rayjobs", name) for name in kube.names("rayjobs")}
    sweep = kube.object("configmaps", "digits-sweep")
    assert submit(cluster, made(tmp_path, retries=7)) is False
    assert {name: kube.object("rayjobs", name) for name in kube.names("rayjobs")} == before
    assert kube.object("configmaps", "digits-sweep") == sweep


def test_an_object_of_somebody_else_is_not_touched(kube, cluster, spec):
    theirs = {
        "apiVersion": "v1", "kind": "ConfigMap", "metadata": {"name": "digits-sweep"},
        "data": {"a": "b"},
    }  # fmt: skip
    kube.put("configmaps", theirs)
    with pytest.raises(ObjectRefused, match=r"ConfigMap digits-sweep .* does not belong to this"):
        submit(cluster, spec)
    assert kube.object("configmaps", "digits-sweep")["data"] == {"a": "b"}
    assert kube.names("rayjobs") == []


def test_a_sweep_without_a_cluster_section_says_so(cluster, spec):
    with pytest.raises(SpecError, match="no `cluster:` section; it needs `image` and `storage`"):
        submit(cluster, spec.model_copy(update={"cluster": None}))


# --- stop and resume -----------------------------------------------------------------------------


def test_stop_ends_the_job_and_keeps_what_the_study_needs(kube, cluster, spec):
    submit(cluster, spec)
    assert stop(cluster, "digits") is True
    assert kube.names("rayjobs") == []
    assert kube.names("configmaps") == ["digits-sweep"]
    assert observe(cluster, "digits").phase == "Stopped"
    assert stop(cluster, "digits") is False


def test_stop_everything_removes_only_what_belongs_to_the_sweep(kube, cluster, spec, tmp_path):
    submit(cluster, spec)
    submit(cluster, made(tmp_path, name="other"))
    stop(cluster, "digits", everything=True)
    assert {name for name in sent(kube) if "digits" in name} == set()
    assert "rayjobs/other" in sent(kube)
    assert "secrets/other-token" in sent(kube)


def test_resume_sends_a_stopped_sweep_again_with_its_changes(kube, cluster, spec, tmp_path):
    submit(cluster, spec)
    stop(cluster, "digits")
    assert resume(cluster, made(tmp_path, retries=5)) is True
    assert kube.object("rayjobs", "digits")["spec"]["backoffLimit"] == 5


def test_resume_replaces_a_failed_job_and_leaves_a_running_one(kube, cluster, spec):
    submit(cluster, spec)
    first = kube.object("rayjobs", "digits")["metadata"]["uid"]
    kube.set_status("rayjobs", "digits", jobDeploymentStatus="Running", jobStatus="RUNNING")
    assert resume(cluster, spec) is False
    kube.set_status("rayjobs", "digits", jobDeploymentStatus="Failed", jobStatus="FAILED")
    assert resume(cluster, spec, pause_seconds=0.01) is True
    assert kube.object("rayjobs", "digits")["metadata"]["uid"] != first


def test_a_job_that_does_not_go_is_told(kube, cluster, spec, monkeypatch):
    submit(cluster, spec)
    job = kube.object("rayjobs", "digits")
    job["metadata"]["finalizers"] = ["ray.io/rayjob-finalizer"]
    kube.put("rayjobs", job)
    kube.set_status("rayjobs", "digits", jobDeploymentStatus="Failed")
    monkeypatch.setattr("k8s.submit.GONE_SECONDS", 0.05)
    with pytest.raises(ObjectRefused, match="does not go; is KubeRay's operator running"):
        resume(cluster, spec, pause_seconds=0.01)


# --- status --------------------------------------------------------------------------------------


def pod(name, **status):
    labels = {"app.kubernetes.io/instance": "digits"}
    return {
        "apiVersion": "v1", "kind": "Pod", "metadata": {"name": name, "labels": labels},
        "status": status,
    }  # fmt: skip


def event(name, about, reason, message):
    return {
        "apiVersion": "v1", "kind": "Event", "metadata": {"name": name}, "type": "Warning",
        "reason": reason, "message": message, "involvedObject": {"name": about},
        "eventTime": None,
    }  # fmt: skip


def test_a_pod_that_fits_nowhere_is_explained(kube, cluster, spec):
    submit(cluster, spec)
    text = "0/3 nodes are available: 3 Insufficient nvidia.com/gpu."
    conditions = [{"type": "PodScheduled", "reason": "Unschedulable", "message": text}]
    kube.put("pods", pod("digits-worker-1", conditions=conditions))
    problems = observe(cluster, "digits").problems
    assert problems == (f"pod digits-worker-1 fits on no node: {text}",)


@pytest.mark.parametrize("key", ["containerStatuses", "initContainerStatuses"])
def test_an_image_that_cannot_be_pulled_is_explained(kube, cluster, spec, key):
    submit(cluster, spec)
    waiting = {"reason": "ImagePullBackOff", "message": "not found"}
    kube.put("pods", pod("head", **{key: [{"image": "reg/x:1", "state": {"waiting": waiting}}]}))
    assert observe(cluster, "digits").problems == ("pod head cannot pull reg/x:1: not found",)


def test_a_quota_and_pod_security_are_explained_and_foreign_events_are_not(kube, cluster, spec):
    submit(cluster, spec)
    kube.set_status("rayjobs", "digits", rayClusterName="digits-abcde")
    quota = "pods is forbidden: exceeded quota: gpus, requested: 1, used: 4, limited: 4"
    security = 'pods "x" is forbidden: violates PodSecurity "restricted:latest"'
    kube.put("events", event("e1", "digits-abcde", "FailedToCreateWorkerPod", quota))
    kube.put("events", event("e2", "digits", "FailedToCreate", security))
    kube.put("events", event("e3", "somebody", "FailedToCreate", "exceeded quota"))
    first, second = observe(cluster, "digits").problems
    assert first == f"the namespace's quota does not allow a pod: {quota}"
    assert second.startswith("the namespace's Pod Security does not allow a pod: ")


def test_a_queue_is_explained(kube, cluster, tmp_path):
    submit(cluster, made(tmp_path, queue="gpus"))
    kube.set_status("rayjobs", "digits", jobDeploymentStatus="Suspended")
    found = observe(cluster, "digits")
    assert found.problems == ("waits in the Kueue queue gpus to be admitted",)
    assert not found.ended


def test_who_may_not_look_at_pods_still_sees_the_phase(kube, cluster, spec):
    submit(cluster, spec)
    kube.set_status("rayjobs", "digits", jobDeploymentStatus="Running", jobStatus="RUNNING")
    kube.denied = {("list", "pods"), ("get", "secrets")}
    found = observe(cluster, "digits")
    assert str(found) == "Running: the driver is running"
    assert progress(cluster, found, None) is None


def test_the_list_has_jobs_and_stopped_sweeps(kube, cluster, spec, tmp_path):
    submit(cluster, spec)
    submit(cluster, made(tmp_path, name="other"))
    stop(cluster, "other")
    assert [(s.name, s.phase) for s in observe_all(cluster)] == [
        ("digits", ""),
        ("other", "Stopped"),
    ]


def test_where_the_study_is_is_read_from_the_cluster(cluster, spec):
    assert study_location(cluster, "digits") is None
    submit(cluster, spec)
    assert study_location(cluster, "digits") == "/studies/digits"


def test_the_progress_is_read_off_the_lines_that_a_run_prints(capsys):
    from made_rows import default_objectives, made_row

    from paretune.live import PlainLines
    from paretune.tables import make_console
    from search.observer import SweepPlan

    view = PlainLines(make_console())
    view.sweep_started(SweepPlan("digits", "/x", 12, (), default_objectives(), 2))
    assert progress_in(capsys.readouterr().out) is None
    for row in (made_row(1, 0.9, 100_000, 1.0), made_row(2, 0.8, 50_000, 0.5)):
        view.trial_ended(row)
    found = progress_in(capsys.readouterr().out)
    assert (found.trials, found.asked, found.front) == (2, 12, 2)
    assert found.hypervolume == pytest.approx(view.front.hypervolume, abs=1e-4)


# --- waiting -------------------------------------------------------------------------------------


def follow(cluster, kube, *steps, name="digits"):
    """Wait while the job goes through steps; give what was said."""
    said, left = [], list(steps)

    def say(text):
        said.append(text)
        if left:
            kube.set_status("rayjobs", name, **left.pop(0))

    return said, lambda: wait(cluster, name, say, pause_seconds=0.01)


def test_waiting_tells_each_phase_once(kube, cluster, spec):
    submit(cluster, spec)
    said, run = follow(
        cluster,
        kube,
        {"jobDeploymentStatus": "Initializing"},
        {"jobDeploymentStatus": "Running", "jobStatus": "PENDING"},
        {"jobDeploymentStatus": "Running", "jobStatus": "RUNNING"},
        {"jobDeploymentStatus": "Complete", "jobStatus": "SUCCEEDED"},
    )
    assert run().phase == "Complete"
    assert said == [
        "New: submitted, KubeRay has not taken it up yet",
        "Initializing: its pods are starting",
        "Running: the driver is starting",
        "Running: the driver is running",
        "Complete: done",
    ]


def test_waiting_tells_what_holds_it_up_once_and_then_the_progress(kube, cluster, dashboard):
    conditions = [{"reason": "Unschedulable", "message": "0/3 nodes are available."}]
    kube.put("pods", pod("digits-worker-1", conditions=conditions))
    said = []

    def say(text):
        said.append(text)
        if "fits on no node" in text:
            kube.put("pods", pod("digits-worker-1"))
            dashboard["log"] = "[1/4] 0a1b2c3d measured\n"
        if "1/4 trials" in text:
            kube.set_status(
                "rayjobs", "digits", jobDeploymentStatus="Complete", jobStatus="SUCCEEDED"
            )

    wait(cluster, "digits", say, pause_seconds=0.01)
    assert said == [
        "Running: the driver is running",
        "pod digits-worker-1 fits on no node: 0/3 nodes are available.",
        "1/4 trials, front of 0, hypervolume 0.0000",
        "Complete: done",
    ]


@pytest.mark.parametrize(
    ("status", "error", "text"),
    [
        ({"reason": "AppFailed", "message": "exit code 1"}, SweepError, "the driver of digits f"),
        (
            {"reason": "DeadlineExceeded", "message": "too long"},
            SweepFailed,
            "DeadlineExceeded: t",
        ),
        ({"reason": "SubmissionFailed"}, SweepFailed, "ended without success: Failed"),
    ],
)
def test_a_failed_job_is_an_error_with_its_reason(kube, cluster, spec, status, error, text):
    submit(cluster, spec)
    kube.set_status("rayjobs", "digits", jobDeploymentStatus="Failed", **status)
    with pytest.raises(error, match=text) as found:
        wait(cluster, "digits", lambda _: None, pause_seconds=0.01)
    assert found.value.exit_code == (1 if error is SweepError else 3)


def test_a_job_that_kuberay_does_not_take_ends_the_wait(kube, cluster, spec):
    submit(cluster, spec)
    kube.set_status(
        "rayjobs", "digits", jobDeploymentStatus="ValidationFailed", message="the name is too long"
    )
    with pytest.raises(SweepFailed, match=r"KubeRay does not take the job .*name is too long"):
        wait(cluster, "digits", lambda _: None, pause_seconds=0.01)


def test_a_job_stopped_by_another_ends_the_wait(kube, cluster, spec):
    submit(cluster, spec)
    with pytest.raises(SweepFailed, match="was stopped; its study is kept"):
        wait(cluster, "digits", lambda _: stop(cluster, "digits"), pause_seconds=0.01)


def test_a_server_that_is_away_for_a_while_is_waited_for(kube, cluster, spec, monkeypatch):
    from k8s.errors import NoCluster

    submit(cluster, spec)
    kube.set_status("rayjobs", "digits", jobDeploymentStatus="Complete", jobStatus="SUCCEEDED")
    real, calls = cluster.get, []

    def flaky(kind, name):
        calls.append(name)
        if len(calls) < 3:
            raise NoCluster("cannot reach the cluster at https://x: refused")
        return real(kind, name)

    monkeypatch.setattr(cluster, "get", flaky)
    said = []
    assert wait(cluster, "digits", said.append, pause_seconds=0.01).phase == "Complete"
    assert said[0].endswith("refused; trying again")
    monkeypatch.setattr("k8s.submit.PATIENCE_SECONDS", 0)
    calls.clear()
    with pytest.raises(NoCluster):
        wait(cluster, "digits", said.append, pause_seconds=0.01)


# --- logs through the API server -----------------------------------------------------------------


@pytest.fixture
def dashboard(kube, cluster, spec):
    """A dashboard of Ray that wants the token, behind the API server's proxy."""
    import http.server

    submit(cluster, spec)
    secret = kube.object("secrets", "digits-token")["data"]["auth_token"]
    token = base64.b64decode(secret).decode()
    state = {"log": "", "paths": []}

    class Dashboard(http.server.BaseHTTPRequestHandler):
        def log_message(self, *_):
            pass

        def do_GET(self):
            state["paths"].append(self.path)
            allowed = self.headers.get("X-Ray-Authorization") == f"Bearer {token}"
            self.send_response(200 if allowed else 401)
            self.end_headers()
            self.wfile.write(json.dumps({"logs": state["log"]}).encode() if allowed else b"no")

    with http.server.ThreadingHTTPServer(("127.0.0.1", 0), Dashboard) as server:
        threading.Thread(target=server.serve_forever, args=(0.02,), daemon=True).start()
        kube.services["default", "digits-abcde-head-svc"] = (
            f"http://127.0.0.1:{server.server_address[1]}"
        )
        kube.set_status(
            "rayjobs", "digits", jobDeploymentStatus="Running", jobStatus="RUNNING",
            jobId="digits-xyz", rayClusterName="digits-abcde",
            dashboardURL="digits-abcde-head-svc.default.svc.cluster.local:8265",
        )  # fmt: skip
        yield state
        server.shutdown()


def test_the_log_comes_through_the_api_server_with_the_token(cluster, dashboard):
    dashboard["log"] = "[3/4] 0a1b2c3d measured\n        front of 2, hypervolume 0.5000 (+0.1)\n"
    found = progress(cluster, observe(cluster, "digits"), None)
    assert str(found) == "3/4 trials, front of 2, hypervolume 0.5000"
    assert dashboard["paths"][-1] == "/api/jobs/digits-xyz/logs"


def test_a_log_is_followed_to_the_end_of_its_job(kube, cluster, dashboard):
    dashboard["log"] = "one\n"
    written = []

    def write(text):
        written.append(text)
        if len(written) == 1:
            dashboard["log"] = "one\ntwo\n"
        elif len(written) == 2:
            dashboard["log"] = "again\n"  # the driver was started again
        else:
            kube.set_status("rayjobs", "digits", jobDeploymentStatus="Complete")

    follow_log(cluster, "digits", write, print, pause_seconds=0.01)
    assert written == ["one\n", "two\n", "again\n"]


def test_pods_that_are_gone_leave_no_log_and_no_error(kube, cluster, dashboard):
    kube.services.clear()
    assert progress(cluster, observe(cluster, "digits"), None) is None


# --- nights --------------------------------------------------------------------------------------


def test_a_schedule_is_set_up_changed_and_ended(kube, cluster, spec):
    from datetime import date

    assert schedule(cluster, spec, Schedule("0 2 * * *", "Europe/Paris")) is True
    job = kube.object("cronjobs", "digits-nightly")
    assert (job["spec"]["schedule"], job["spec"]["timeZone"]) == ("0 2 * * *", "Europe/Paris")
    assert schedule(cluster, spec, Schedule("30 3 * * *")) is False
    assert kube.object("cronjobs", "digits-nightly")["spec"]["schedule"] == "30 3 * * *"
    assert kube.names("rayjobs") == []
    name = submit_night(cluster, spec, date(2026, 11, 24), keep=3, owner=None)
    assert submit_night(cluster, spec, date(2026, 11, 24), keep=3, owner=None) == name
    assert kube.names("rayjobs") == ["digits-2026-11-24"]
    assert unschedule(cluster, "digits") is True
    assert kube.names("cronjobs") == kube.names("roles") == kube.names("rolebindings") == []
    assert unschedule(cluster, "digits") is False


def test_a_night_needs_no_more_rights_than_its_role_gives(kube, cluster, spec):
    from datetime import date

    manifests = schedule_manifests(spec, spec.cluster, Schedule("0 2 * * *"))
    (rule,) = next(m for m in manifests if m["kind"] == "Role")["rules"]
    assert rule["resources"] == ["rayjobs"]
    verbs = {"get", "list", "watch", "create", "update", "patch", "delete"}
    kube.denied = {("*", plural) for plural in (*KINDS, "services/proxy") if plural != "rayjobs"}
    kube.denied |= {(verb, "rayjobs") for verb in verbs - set(rule["verbs"])}
    name = submit_night(cluster, spec, date(2026, 11, 24), keep=3, owner=None)
    kube.set_status(
        "rayjobs", name, jobDeploymentStatus="Running", jobStatus="RUNNING", jobId="x",
        dashboardURL="head-svc.default.svc.cluster.local:8265",
    )  # fmt: skip
    said, run = follow(
        cluster, kube, {"jobDeploymentStatus": "Complete", "jobStatus": "SUCCEEDED"}, name=name
    )
    assert run().phase == "Complete"
    assert said == ["Running: the driver is running", "Complete: done"]


@pytest.mark.parametrize(
    ("arguments", "text"),
    [
        (("* * * * *",), "one minute .* and one hour"),
        (("0 */6 * * *",), "one minute .* and one hour"),
        (("60 2 * * *",), "one minute"),
        (("0 2 * *",), "five fields"),
        (("0 2 * * *; rm -rf /",), "five fields"),
        (("0 2 * * $(x)",), "five fields"),
        (("0 2 * * *", "Mars/Olympus"), "allowed: a name such as Europe/Paris"),
        (("0 2 * * *", "$(x)"), "--time-zone"),
        (("0 2 * * *", "Etc/UTC", 0), "--keep"),
    ],
)
def test_a_bad_schedule_is_refused(arguments, text):
    with pytest.raises(SpecError, match=text):
        Schedule(*arguments)
