"""The objects that are sent: whole documents, the schemas, Pod Security, and foreign text."""

import re
from datetime import date
from pathlib import Path

import jsonschema
import kubernetes.client
import pytest
import yaml
from decoding import kuberay_schemas
from made_sweeps import made

from k8s.manifests import ENTRYPOINT, on_cluster, ray_job, sweep_manifests
from k8s.render import to_yaml
from k8s.schedule import NIGHT_ENTRYPOINT, Schedule, night_job, schedule_manifests
from k8s.sweep import load_cluster_sweep
from search.errors import SpecError
from search.spec.spec_file import load_sweep

HERE = Path(__file__).parent
EXAMPLE = HERE.parents[1] / "scripts" / "sweeps" / "cluster.yaml"
DAY = date(2026, 11, 24)
OWNER = {"apiVersion": "batch/v1", "kind": "Job", "name": "digits-nightly-1", "uid": "u-1"}
RICH = {
    "namespace": "vision",
    "image_pull_secret": "registry",
    "storage": {"url": "s3://studies/team", "secret": "s3-keys"},
    "service_account": "sweeps",
    "queue": "gpus",
    "deadline_seconds": "2h",
    "submission": "K8sJobMode",
    "tensorboard": False,
    "env": {"GREETING": "a $(HOME) `date` \"quote\" 'x'\nnext ü"},
    "labels": {"example.com/cost-centre": "42"},
    "workers": [
        {
            "name": "slices",
            "cpus": 4,
            "memory_gib": 2.5,
            "gpus": 2,
            "gpu_resource": "nvidia.com/mig-1g.10gb",
            "min_workers": 2,
            "max_workers": 2,
            "node_selector": {"pool": "a100"},
            "tolerations": [
                {"key": "team", "operator": "Equal", "value": "vision", "effect": "NoExecute"}
            ],
        }
    ],
}


def documents(which, folder):
    if which == "example":
        spec = load_cluster_sweep(EXAMPLE)
        return sweep_manifests(spec, spec.cluster)
    if which == "example-nightly":
        spec = load_cluster_sweep(EXAMPLE)
        return schedule_manifests(spec, spec.cluster, Schedule("0 2 * * *", "Europe/Paris"))
    spec = made(folder, **RICH)
    if which == "rich":
        return sweep_manifests(spec, spec.cluster)
    return schedule_manifests(spec, spec.cluster, Schedule("30 1 * * 1-5", "Etc/UTC", keep=3))


ALL = ("example", "example-nightly", "rich", "rich-nightly")


@pytest.mark.parametrize("which", ALL)
def test_the_documents_are_those_that_were_reviewed(which, tmp_path):
    golden = HERE / "golden" / f"{which}.yaml"
    assert reviewed(documents(which, tmp_path)) == golden.read_text()


def reviewed(manifests):
    """Give the text of a golden file: all but the sweep file, whose defaults are tested elsewhere.

    After a change on purpose: write this text into the file, and review the difference.
    """
    first, *others = manifests
    assert list(first["data"]) == ["sweep.yaml"]
    return to_yaml([{**first, "data": {"sweep.yaml": "# the sweep\n# as a file\n"}}, *others])


@pytest.mark.parametrize("which", ALL)
def test_what_is_printed_reads_back_as_what_is_sent(which, tmp_path):
    found = documents(which, tmp_path)
    assert list(yaml.safe_load_all(to_yaml(found))) == found


@pytest.mark.parametrize("which", ALL)
def test_ray_jobs_fit_the_strict_schema(which, tmp_path):
    validator = jsonschema.Draft202012Validator(kuberay_schemas()["rayjobs"])
    spec = load_cluster_sweep(EXAMPLE) if "example" in which else made(tmp_path, **RICH)
    jobs = [m for m in documents(which, tmp_path) if m["kind"] == "RayJob"]
    jobs.append(night_job(spec, spec.cluster, DAY, keep=3, owner=OWNER))
    for job in jobs:
        assert list(validator.iter_errors(job)) == []


@pytest.mark.parametrize("which", ALL)
def test_built_in_kinds_have_no_unknown_field(which, tmp_path):
    for manifest in documents(which, tmp_path):
        if manifest["kind"] != "RayJob":
            getattr(kubernetes.client, f"V1{manifest['kind']}").model_validate(manifest)


# --- Pod Security: the restricted standard, rule by rule -----------------------------------------


def pod_specs(value, path=""):
    """Give every pod spec in a manifest, wherever it stands."""
    if isinstance(value, dict):
        if "containers" in value:
            yield path, value
        for key, inner in value.items():
            yield from pod_specs(inner, f"{path}.{key}")
    elif isinstance(value, list):
        for i, inner in enumerate(value):
            yield from pod_specs(inner, f"{path}[{i}]")


def container_rules(container):
    security = container.get("securityContext", {})
    yield "privilege escalation", security.get("allowPrivilegeEscalation") is False
    yield "capabilities", security.get("capabilities") == {"drop": ["ALL"]}
    yield "privileged", not security.get("privileged")
    yield "non-root", security.get("runAsNonRoot") is True and security.get("runAsUser") != 0
    yield "seccomp", security.get("seccompProfile", {}).get("type") == "RuntimeDefault"
    yield "read-only root", security.get("readOnlyRootFilesystem") is True
    yield "host ports", not any("hostPort" in port for port in container.get("ports", []))


def pod_rules(pod):
    allowed = {"configMap", "emptyDir", "persistentVolumeClaim", "secret", "projected"}
    for key in ("hostNetwork", "hostPID", "hostIPC"):
        yield key, not pod.get(key)
    volumes = pod.get("volumes", [])
    yield "volumes", all(set(volume) - {"name"} <= allowed for volume in volumes)
    yield (
        "non-root",
        pod["securityContext"]["runAsNonRoot"] and pod["securityContext"]["runAsUser"],
    )
    names = {volume["name"] for volume in volumes}
    for container in [*pod["containers"], *pod.get("initContainers", [])]:
        mounts = {mount["name"] for mount in container.get("volumeMounts", [])}
        yield "mounts", mounts <= names
        yield from container_rules(container)


@pytest.mark.parametrize("which", ALL)
def test_every_pod_passes_restricted_pod_security(which, tmp_path):
    found = [pod for m in documents(which, tmp_path) for pod in pod_specs(m, m["kind"])]
    assert found
    for path, pod in found:
        broken = [name for name, kept in pod_rules(pod) if not kept]
        assert not broken, f"{path}: {broken}"


def test_the_pods_that_others_add_pass_too(tmp_path):
    """The autoscaler's container and the submitter are KubeRay's, with what we say of them."""
    spec = load_cluster_sweep(EXAMPLE)
    cluster = ray_job(spec, spec.cluster)["spec"]["rayClusterSpec"]
    assert all(kept for _, kept in container_rules(cluster["autoscalerOptions"]))
    spec = made(tmp_path, submission="K8sJobMode")
    template = ray_job(spec, spec.cluster)["spec"]["submitterPodTemplate"]
    assert all(kept for _, kept in pod_rules(template["spec"]))


def test_a_rule_that_is_broken_is_seen():
    spec = load_cluster_sweep(EXAMPLE)
    job = ray_job(spec, spec.cluster)
    (_, head), *_ = pod_specs(job)
    del head["containers"][0]["securityContext"]["capabilities"]
    assert [name for name, kept in pod_rules(head) if not kept] == ["capabilities"]


@pytest.mark.parametrize("which", ALL)
def test_only_pods_that_talk_to_the_api_server_have_a_token(which, tmp_path):
    with_token = {
        path.split(".")[-3] + "." + path.split(".")[-2]
        for m in documents(which, tmp_path)
        for path, pod in pod_specs(m, m["kind"])
        if pod["automountServiceAccountToken"]
    }
    expected = "spec.template" if "nightly" in which else "headGroupSpec.template"
    assert with_token == {expected}


# --- what KubeRay's operator refuses, though its definition allows it ----------------------------


def kuberay_rules(job):
    spec = job["spec"]
    yield "name", re.fullmatch(r"[a-z]([-a-z0-9]*[a-z0-9])?", job["metadata"]["name"])
    yield "name length", len(job["metadata"]["name"]) <= 47
    yield "submission", spec["submissionMode"] in ("HTTPMode", "K8sJobMode")
    yield "deadline", spec.get("activeDeadlineSeconds", 1) > 0
    yield "retries", spec["backoffLimit"] >= 0
    yield "clean-up", spec["shutdownAfterJobFinishes"] and "deletionStrategy" not in spec
    yield "ttl", spec["ttlSecondsAfterFinished"] >= 0
    cluster = spec["rayClusterSpec"]
    yield "version for the token", re.fullmatch(r"\d+\.\d+\.\d+", cluster["rayVersion"])
    groups = [cluster["headGroupSpec"], *cluster["workerGroupSpecs"]]
    params = [value for group in groups for value in group["rayStartParams"].values()]
    yield "start parameters are text", all(isinstance(value, str) for value in params)
    for group in cluster["workerGroupSpecs"]:
        yield "replicas", group["minReplicas"] <= group["replicas"] <= group["maxReplicas"]


@pytest.mark.parametrize("name", ["a", "a" * 36])
def test_jobs_keep_the_rules_that_only_the_operator_knows(name, tmp_path):
    spec = made(tmp_path, name=name, **RICH)
    night = night_job(spec, spec.cluster, DAY, keep=3, owner=OWNER)
    for job in (ray_job(spec, spec.cluster), night):
        assert [rule for rule, kept in kuberay_rules(job) if not kept] == []


# --- what is in them -----------------------------------------------------------------------------


def test_the_driver_reads_the_sweep_with_storage_and_slots_of_the_cluster(tmp_path):
    spec = load_cluster_sweep(EXAMPLE)
    text = documents("example", tmp_path)[0]["data"]["sweep.yaml"]
    (tmp_path / "inside.yaml").write_text(text)
    inside = load_sweep(tmp_path / "inside.yaml")
    assert inside.storage == "/studies"
    # 10 pods of 1 GPU, 0.5 GPU a trial; the 8 CPUs of a pod have room for 4
    assert inside.max_concurrent == 20
    assert inside.space == spec.space
    asked = spec.resources.model_copy(update={"max_concurrent": 3})
    spec = spec.model_copy(update={"resources": asked})
    assert on_cluster(spec, spec.cluster).max_concurrent == 3


def test_no_trial_runs_on_the_head_and_the_head_is_not_evicted():
    manifests = documents("example", None)
    cluster = manifests[-1]["spec"]["rayClusterSpec"]
    assert cluster["headGroupSpec"]["rayStartParams"]["num-cpus"] == "0"
    budget = next(m for m in manifests if m["kind"] == "PodDisruptionBudget")
    labels = cluster["headGroupSpec"]["template"]["metadata"]["labels"]
    assert budget["spec"]["selector"]["matchLabels"].items() <= labels.items()
    assert all(group["minReplicas"] == 0 for group in cluster["workerGroupSpecs"])


def test_own_pods_may_reach_each_other_and_only_the_operator_comes_in(tmp_path):
    for which in ALL:
        manifests = documents(which, tmp_path)
        policy = next(m for m in manifests if m["kind"] == "NetworkPolicy")["spec"]
        own = policy["podSelector"]["matchLabels"].items()
        assert policy["ingress"][0]["from"][0]["podSelector"]["matchLabels"].items() == own
        for manifest in manifests:
            for _, pod in pod_templates(manifest):
                assert own <= pod["metadata"]["labels"].items()
        assert len(policy["ingress"]) == 2
        assert {p["port"] for p in policy["ingress"][1]["ports"]} == {8265, 52365}


def pod_templates(value, path=""):
    if isinstance(value, dict):
        if "containers" in value.get("spec", {}):
            yield path, value
        for key, inner in value.items():
            yield from pod_templates(inner, f"{path}.{key}")
    elif isinstance(value, list):
        for inner in value:
            yield from pod_templates(inner, path)


def test_a_cluster_of_fixed_size_has_no_autoscaler(tmp_path):
    spec = made(tmp_path, **RICH)
    job = ray_job(spec, spec.cluster)
    assert "enableInTreeAutoscaling" not in job["spec"]["rayClusterSpec"]
    assert "annotations" not in job["metadata"]
    groups = [{**RICH["workers"][0], "min_workers": 0}]
    spec = made(tmp_path, **{**RICH, "workers": groups})
    job = ray_job(spec, spec.cluster)
    assert job["spec"]["rayClusterSpec"]["enableInTreeAutoscaling"] is True
    # Kueue admits a cluster that grows only with this.
    assert job["metadata"]["annotations"] == {"kueue.x-k8s.io/elastic-job": "true"}


def test_the_nightly_account_may_make_and_read_ray_jobs_and_nothing_else(tmp_path):
    manifests = documents("example-nightly", tmp_path)
    role = next(m for m in manifests if m["kind"] == "Role")
    assert role["rules"] == [
        {"apiGroups": ["ray.io"], "resources": ["rayjobs"], "verbs": ["create", "get"]}
    ]
    binding = next(m for m in manifests if m["kind"] == "RoleBinding")
    pod = manifests[-1]["spec"]["jobTemplate"]["spec"]["template"]["spec"]
    assert [s["name"] for s in binding["subjects"]] == [pod["serviceAccountName"]]


def test_a_night_is_a_job_of_its_own_that_goes_with_its_owner(tmp_path):
    spec = made(tmp_path)
    job = night_job(spec, spec.cluster, DAY, keep=5, owner=OWNER)
    assert job["metadata"]["name"] == "digits-2026-11-24"
    assert job["metadata"]["ownerReferences"] == [OWNER]
    env = job["spec"]["rayClusterSpec"]["headGroupSpec"]["template"]["spec"]["containers"][0][
        "env"
    ]
    assert {"name": "PARETUNE_NIGHT", "value": "2026-11-24"} in env
    assert {"name": "PARETUNE_KEEP", "value": "5"} in env


# --- foreign text --------------------------------------------------------------------------------

HOSTILE = [
    "`touch /tmp/x`",
    "$(touch /tmp/x)",
    "$(HOME)",
    "a'b\"c",
    "x\ny: z",
    "ünï ☃",
    "{{x}}",
    "a;b",
]


@pytest.mark.parametrize("text", HOSTILE)
def test_values_of_variables_are_carried_literally(text, tmp_path):
    spec = made(tmp_path, env={"NOTE": text})
    job = ray_job(spec, spec.cluster)
    assert job["spec"]["entrypoint"] == ENTRYPOINT
    assert "runtimeEnvYAML" not in job["spec"]
    values = [
        entry["value"]
        for _, pod in pod_specs(job)
        for container in pod["containers"]
        for entry in container["env"]
        if entry["name"] == "NOTE"
    ]
    assert len(values) == 2
    assert {expanded(value, {"HOME": "/tmp"}) for value in values} == {text}


def expanded(value, known):
    """Expand as the kubelet does: `$$` is a `$`, `$(NAME)` a variable that is known."""
    return re.sub(
        r"\$\$|\$\((\w+)\)",
        lambda m: "$" if m[0] == "$$" else known.get(m[1], m[0]),
        value,
    )


@pytest.mark.parametrize("text", HOSTILE)
def test_a_path_of_images_travels_inside_the_sweep_file_alone(text, tmp_path):
    path = f"/studies/{text}"
    spec = made(tmp_path)
    spec = spec.model_copy(update={"data": spec.data.model_copy(
        update={"name": "image_folder", "path": path})})  # fmt: skip
    manifests = sweep_manifests(spec, spec.cluster)
    (tmp_path / "inside.yaml").write_text(manifests[0]["data"]["sweep.yaml"])
    assert load_sweep(tmp_path / "inside.yaml").data.path == path
    assert text not in str(manifests[1:])
    again = list(yaml.safe_load_all(to_yaml(manifests)))
    assert again == manifests


def test_both_entrypoints_are_constant_words():
    for command in (ENTRYPOINT, NIGHT_ENTRYPOINT):
        assert re.fullmatch(r"[a-z0-9 ./-]+", command)


@pytest.mark.parametrize("text", HOSTILE)
@pytest.mark.parametrize(
    "field",
    [
        "image", "namespace", "image_pull_secret", "service_account", "queue", "ray_version",
        "submission", "labels key", "labels value", "env key", "claim", "mount", "secret", "url",
        "group", "gpu_resource", "node_selector", "toleration", "name",
    ],
)  # fmt: skip
def test_everything_else_is_refused_with_a_message(field, text, tmp_path):
    changes = {
        "labels key": {"labels": {text: "v"}},
        "labels value": {"labels": {"k": text}},
        "env key": {"env": {text: "v"}},
        "claim": {"storage": {"claim": text}},
        "mount": {"storage": {"claim": "c", "mount": f"/{text}"}},
        "secret": {"storage": {"claim": "c", "secret": text}},
        "url": {"storage": {"url": f"s3://bucket/{text}"}},
        "group": {"workers": [{"name": text}]},
        "gpu_resource": {"workers": [{"gpu_resource": f"nvidia.com/{text}"}]},
        "node_selector": {"workers": [{"node_selector": {"pool": text}}]},
        "toleration": {"workers": [{"tolerations": [{"key": text}]}]},
        "name": {"name": text},
    }
    with pytest.raises(SpecError, match=r"(?s)sweep\.yaml:\d+: .*allowed"):
        made(tmp_path, **changes.get(field, {field: text}))
