"""`paretune k8s ...` as a person sees it: output, exit codes, and what is never shown."""

import base64
import json
import os
import subprocess
import sys

import pytest
import yaml
from decoding import schemas_if_here
from fakeapi import FakeKube
from made_sweeps import kubeconfig, made, written

from k8s.manifests import sweep_manifests
from paretune.cli import main


@pytest.fixture
def kube(tmp_path, monkeypatch):
    with FakeKube(schemas_if_here(), token="a-token-of-mine") as kube:
        monkeypatch.setenv("KUBECONFIG", str(kubeconfig(tmp_path, kube.url)))
        monkeypatch.setattr("k8s.submit.POLL_SECONDS", 0.01)
        yield kube


@pytest.fixture
def sweep(tmp_path):
    return written(tmp_path)


@pytest.fixture
def k8s(capsys):
    def run(*arguments):
        with pytest.raises(SystemExit) as ended:
            main(["k8s", *map(str, arguments)])
        out, err = capsys.readouterr()
        return ended.value.code, out, err

    return run


def test_render_needs_no_cluster_and_loads_no_heavy_library(sweep, tmp_path):
    code = (
        "import sys\nfrom paretune.cli import main\n"
        "try:\n    main(['k8s', 'render', sys.argv[1]])\nfinally:\n"
        "    assert not {'torch', 'ray', 'kubernetes', 'sklearn'} & set(sys.modules), 'loaded'"
    )
    environment = {**os.environ, "KUBECONFIG": str(tmp_path / "nothing")}
    ran = subprocess.run(
        [sys.executable, "-c", code, sweep],
        env=environment, capture_output=True, text=True, check=False,
    )  # fmt: skip
    assert ran.returncode == 0, ran.stderr
    spec = made(tmp_path)
    assert list(yaml.safe_load_all(ran.stdout)) == sweep_manifests(spec, spec.cluster)


def test_a_namespace_of_the_command_line_is_in_every_object(k8s, sweep):
    code, out, _ = k8s("render", sweep, "-n", "vision")
    assert code == 0
    assert {m["metadata"]["namespace"] for m in yaml.safe_load_all(out)} == {"vision"}
    code, _, err = k8s("render", sweep, "-n", "$(x)")
    assert code == 2
    assert "--namespace: got '$(x)'; allowed" in err


def test_render_with_cron_prints_the_nights(k8s, sweep):
    code, out, _ = k8s("render", sweep, "--cron", "0 2 * * *", "--time-zone", "Europe/Paris")
    assert code == 0
    job = list(yaml.safe_load_all(out))[-1]
    assert (job["kind"], job["spec"]["timeZone"]) == ("CronJob", "Europe/Paris")


def test_submit_twice_is_no_error(k8s, kube, sweep):
    code, out, err = k8s("submit", sweep)
    assert (code, out) == (0, "")
    assert "submitted digits to namespace default of context test" in err
    code, _, err = k8s("submit", sweep)
    assert code == 0
    assert "digits is there already" in err
    assert len(kube.names("rayjobs")) == 1


def test_submit_with_wait_attaches_to_what_is_there(k8s, kube, sweep):
    k8s("submit", sweep)
    kube.set_status("rayjobs", "digits", jobDeploymentStatus="Complete", jobStatus="SUCCEEDED")
    code, _, err = k8s("submit", sweep, "--wait")
    assert code == 0
    assert "digits is there already" in err
    assert f"to run it again on the same study: paretune k8s resume {sweep}" in err
    assert err.splitlines()[-1] == "Complete: done"


def test_a_job_that_failed_is_told_by_the_exit_code(k8s, kube, sweep):
    k8s("submit", sweep)
    kube.set_status("rayjobs", "digits", jobDeploymentStatus="Failed", reason="DeadlineExceeded")
    code, _, err = k8s("submit", sweep, "--wait")
    assert code == 3
    assert "DeadlineExceeded" in err
    kube.set_status("rayjobs", "digits", reason="AppFailed", message="exit code 1")
    assert k8s("submit", sweep, "--wait")[0] == 1


def test_ctrl_c_leaves_the_sweep_running_and_says_how_to_follow_it(k8s, kube, sweep, monkeypatch):
    def interrupted(*_):
        raise KeyboardInterrupt

    monkeypatch.setattr("k8s.submit.observe", interrupted)
    code, _, err = k8s("submit", sweep, "--wait")
    assert code == 130
    assert "digits goes on in the cluster; to follow it again" in err
    assert f"paretune k8s submit {sweep} --wait --namespace default" in err
    assert kube.names("rayjobs") == ["digits"]
    assert k8s("logs", "digits", "-f")[0] == 130


def test_status_is_for_people_and_for_programs(k8s, kube, sweep):
    k8s("submit", sweep)
    kube.set_status(
        "rayjobs", "digits", jobDeploymentStatus="Running", jobStatus="RUNNING",
        rayClusterStatus={"readyWorkerReplicas": 2},
    )  # fmt: skip
    code, out, _ = k8s("status", "digits")
    assert code == 0
    assert out.splitlines() == [
        "digits: Running: the driver is running",
        "  2 workers ready",
        "  trials: not to be seen from here",
    ]
    code, out, _ = k8s("status", sweep, "--json")
    found = json.loads(out)
    assert (found["phase"], found["workers"], found["progress"]) == ("Running", 2, None)


def test_stop_list_resume_and_logs(k8s, kube, sweep):
    k8s("submit", sweep)
    assert k8s("list")[1].startswith("digits  -")
    code, _, err = k8s("logs", "digits")
    assert code == 3
    assert "there is no log" in err
    assert "stopped digits" in k8s("stop", sweep)[2]
    assert "digits has no job" in k8s("stop", "digits")[2]
    assert "Stopped" in k8s("list")[1]
    assert "it goes on with its study" in k8s("resume", sweep)[2]
    assert kube.names("rayjobs") == ["digits"]
    assert k8s("stop", "digits", "--everything")[0] == 0
    assert k8s("list")[1:] == ("", "no sweeps in namespace default of context test\n")


def test_schedule_and_unschedule(k8s, kube, sweep):
    code, _, err = k8s("schedule", sweep, "--cron", "0 2 * * *", "--time-zone", "Europe/Paris")
    assert code == 0
    assert "scheduled digits" in err
    assert kube.names("cronjobs") == ["digits-nightly"]
    assert "no longer runs at night" in k8s("unschedule", "digits")[2]
    assert "has no nights" in k8s("unschedule", "digits")[2]


def test_another_context_and_namespace(k8s, kube, sweep):
    kube.namespaces.add("elsewhere")
    assert "namespace elsewhere of context other" in k8s("submit", sweep, "--context", "other")[2]
    assert kube.object("rayjobs", "digits", "elsewhere")
    assert kube.object("rayjobs", "digits", "default") is None
    kube.namespaces.add("third")
    k8s("submit", sweep, "-n", "third")
    assert kube.object("rayjobs", "digits", "third")


# --- mistakes and refusals -----------------------------------------------------------------------

COMMANDS = [
    ("submit", "FILE"), ("resume", "FILE"), ("status", "digits"), ("stop", "digits"),
    ("logs", "digits"), ("list",), ("schedule", "FILE"), ("unschedule", "digits"),
]  # fmt: skip


@pytest.mark.parametrize("command", COMMANDS, ids=lambda c: c[0])
@pytest.mark.parametrize(
    ("trouble", "text"),
    [
        ("connection", "cannot reach the cluster at http://127.0.0.1:9"),
        ("credentials", "does not accept your credentials"),
        ("rights", "you may not "),
        ("crd", "install KubeRay 1.7"),
        ("server", "cannot answer now (500)"),
        ("kubeconfig", "no cluster is configured"),
    ],
)
def test_every_trouble_is_one_line_and_3(
    command, trouble, text, k8s, kube, sweep, tmp_path, monkeypatch
):
    match trouble:
        case "connection":
            kubeconfig(tmp_path, "http://127.0.0.1:9")
        case "credentials":
            kube.token = "another"
        case "rights":
            kube.denied = {("*", p) for p in ("rayjobs", "cronjobs", "configmaps")}
        case "crd":
            if command[0] == "unschedule":
                pytest.skip("needs no KubeRay")
            kube.kuberay = False
        case "server":
            kube.broken = 500
        case "kubeconfig":
            monkeypatch.setenv("KUBECONFIG", str(tmp_path / "nothing"))
    code, out, err = k8s(*(sweep if part == "FILE" else part for part in command))
    assert (code, out) == (3, "")
    assert err.startswith("paretune: ")
    assert text in err
    assert len(err.splitlines()) == 1


def test_mistakes_in_the_section_are_named_with_their_lines(k8s, kube, tmp_path):
    sweep = written(tmp_path, head={"cpus": 0}, retry=3, submission="HttpMode")
    code, _, err = k8s("submit", sweep)
    assert code == 2
    lines = {line.rpartition("sweep.yaml:")[2].partition(" ")[2] for line in err.splitlines()}
    assert lines == {
        "cluster.head.cpus: got 0; allowed: a whole number, at least 1",
        "cluster.retry: unknown key; did you mean 'retries'? allowed: image, storage, namespace, "
        "image_pull_secret, head, workers, service_account, queue, deadline_seconds, retries, "
        "keep_seconds, tensorboard, submission, ray_version, env, labels",
        "cluster.submission: got 'HttpMode'; allowed: HTTPMode or K8sJobMode",
    }
    assert kube.requests == []


@pytest.mark.parametrize("name", ["under_score", "1st", "a.b", "a" * 37])
def test_a_name_that_kuberay_refuses_is_refused_before_anything_is_sent(k8s, kube, tmp_path, name):
    code, _, err = k8s("submit", written(tmp_path, name=name))
    assert code == 2
    assert f"name: got '{name}'; allowed on a cluster: lower-case letters" in err
    assert kube.requests == []


def test_a_trial_that_fits_in_no_pod_is_refused(k8s, kube, tmp_path):
    sweep = written(tmp_path)
    text = yaml.safe_load(sweep.read_text())
    text["resources"] = {"cpus_per_trial": 2, "gpus_per_trial": 1}
    sweep.write_text(yaml.safe_dump(text))
    code, _, err = k8s("submit", sweep)
    assert code == 2
    assert "a trial takes 2 CPUs and 1 GPUs (resources), more than any pod has: cpu 2 CPUs" in err


@pytest.mark.parametrize("name", ["$(x)", "`id`", "a b", "../x", "ü", "a'b", "a\nb"])
def test_names_on_the_command_line_are_refused(k8s, kube, name):
    for command in ("status", "stop", "logs", "unschedule"):
        code, _, err = k8s(command, name)
        assert code == 2
        assert "allowed" in err
    assert kube.requests == []


def test_no_secret_is_ever_shown(k8s, kube, sweep, tmp_path):
    shown = ""
    for command in (*COMMANDS, ("render", "FILE"), ("status", "digits", "--json")):
        shown += "".join(map(str, k8s(*(sweep if part == "FILE" else part for part in command))))
        if command[0] == "submit":
            data = kube.object("secrets", "digits-token")["data"]["auth_token"]
    kube.broken = 500
    shown += k8s("submit", sweep)[2]
    kube.broken, kube.token = None, "another"
    shown += k8s("submit", sweep)[2]
    for secret in (data, base64.b64decode(data).decode(), "a-token-of-mine"):
        assert secret not in shown
