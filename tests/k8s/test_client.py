"""The client against the server double, and against a real cluster where one is named."""

import os
import secrets

import kubernetes
import pytest
from decoding import kuberay_schemas, schemas_if_here
from fakeapi import FakeKube
from made_sweeps import connected, kubeconfig, made

from contracts.cluster_contract import ClusterContract, config_map
from k8s.client import KINDS, Cluster
from k8s.errors import AccessRefused, ClusterError, NoCluster, NotInstalled, ObjectRefused
from k8s.manifests import ray_job


@pytest.fixture
def job(tmp_path):
    spec = made(tmp_path)
    return ray_job(spec, spec.cluster)


@pytest.fixture
def unique():
    return f"paretune-test-{secrets.token_hex(4)}"


@pytest.fixture
def kube():
    with FakeKube(schemas_if_here()) as kube:
        yield kube


class TestDouble(ClusterContract):
    @pytest.fixture
    def cluster(self, kube, tmp_path, monkeypatch):
        return connected(tmp_path, kube, monkeypatch)

    @pytest.fixture
    def strict(self):
        kuberay_schemas()


@pytest.mark.cluster
class TestRealCluster(ClusterContract):
    @pytest.fixture
    def cluster(self, unique, monkeypatch):
        path = os.environ.get("PARETUNE_TEST_KUBECONFIG")
        if not path:
            pytest.skip("PARETUNE_TEST_KUBECONFIG names no cluster")
        monkeypatch.setenv("KUBECONFIG", path)
        cluster = Cluster.connect()
        yield cluster
        for kind in ("ConfigMap", "RayJob"):
            cluster.delete(kind, unique)

    @pytest.fixture
    def strict(self):
        pass


# --- the double itself, through the official client ----------------------------------------------


@pytest.fixture
def official(kube):
    settings = kubernetes.client.Configuration(host=kube.url)
    return kubernetes.client.ApiClient(settings)


def test_a_watch_tells_what_happens_from_a_version_on(kube, official):
    core = kubernetes.client.CoreV1Api(official)
    core.create_namespaced_config_map("default", config_map("one"))
    listed = core.list_namespaced_config_map("default")
    core.create_namespaced_config_map("default", config_map("two"))
    core.patch_namespaced_config_map(
        "two", "default", {"data": {"a": "b"}}, _content_type="application/merge-patch+json"
    )
    core.delete_namespaced_config_map("two", "default")
    watch = kubernetes.watch.Watch()
    events = watch.stream(
        core.list_namespaced_config_map,
        "default",
        resource_version=listed.metadata.resource_version,
        timeout_seconds=1,
    )
    found = [(event["type"], event["object"].metadata.name) for event in events]
    assert found == [("ADDED", "two"), ("MODIFIED", "two"), ("DELETED", "two")]


def test_an_outdated_change_is_a_conflict(official):
    core = kubernetes.client.CoreV1Api(official)
    made = core.create_namespaced_config_map("default", config_map("one"))
    core.replace_namespaced_config_map("one", "default", made)
    made.metadata.resource_version = "1"
    with pytest.raises(kubernetes.client.ApiException) as error:
        core.replace_namespaced_config_map("one", "default", made)
    assert (error.value.status, error.value.reason) == (409, "Conflict")


def test_status_is_a_resource_of_its_own(kube, official, job):
    custom = kubernetes.client.CustomObjectsApi(official)
    place = ("ray.io", "v1", "default", "rayjobs")
    made = custom.create_namespaced_custom_object(*place, {**job, "status": {"jobId": "x"}})
    assert "status" not in made
    custom.patch_namespaced_custom_object_status(*place, "digits", {"status": {"jobId": "y"}})
    found = custom.patch_namespaced_custom_object(*place, "digits", {"spec": {"suspend": True}})
    assert found["status"]["jobId"] == "y"
    assert found["metadata"]["generation"] == 2


def test_a_finalizer_delays_the_end(kube, official, job):
    custom = kubernetes.client.CustomObjectsApi(official)
    place = ("ray.io", "v1", "default", "rayjobs")
    job["metadata"]["finalizers"] = ["ray.io/rayjob-finalizer"]
    custom.create_namespaced_custom_object(*place, job)
    custom.delete_namespaced_custom_object(*place, "digits")
    assert "deletionTimestamp" in kube.object("rayjobs", "digits")["metadata"]
    custom.patch_namespaced_custom_object(*place, "digits", {"metadata": {"finalizers": None}})
    assert kube.object("rayjobs", "digits") is None


# --- connecting as kubectl does ------------------------------------------------------------------


def test_the_context_says_the_namespace(kube, tmp_path, monkeypatch):
    monkeypatch.setenv("KUBECONFIG", str(kubeconfig(tmp_path, kube.url, namespace="mine")))
    assert Cluster.connect().namespace == "mine"
    assert Cluster.connect(context="other").namespace == "elsewhere"
    assert Cluster.connect(context="other", namespace="third").namespace == "third"
    assert str(Cluster.connect()) == "namespace mine of context test"


def test_the_token_of_the_kubeconfig_is_sent(tmp_path, monkeypatch):
    with FakeKube(token="a-token-of-mine") as kube:
        cluster = connected(tmp_path, kube, monkeypatch)
        assert cluster.get("ConfigMap", "x") is None
        kubeconfig(tmp_path, kube.url, token="another-one")
        with pytest.raises(AccessRefused, match="does not accept your credentials") as error:
            Cluster.connect().get("ConfigMap", "x")
        assert "another-one" not in str(error.value)


def test_an_unknown_context_names_those_there_are(kube, tmp_path, monkeypatch):
    monkeypatch.setenv("KUBECONFIG", str(kubeconfig(tmp_path, kube.url)))
    with pytest.raises(NoCluster, match=r"no context 'prod'; allowed: test, other"):
        Cluster.connect(context="prod")


def test_without_any_configuration_it_says_what_to_do(tmp_path, monkeypatch):
    monkeypatch.setenv("KUBECONFIG", str(tmp_path / "nothing"))
    with pytest.raises(NoCluster, match=r"no cluster is configured: there is no .*nothing"):
        Cluster.connect()


@pytest.mark.parametrize("text", ["", "}{", "apiVersion: v1\nkind: Config\n", "[1, 2]"])
def test_a_broken_configuration_is_named(text, tmp_path, monkeypatch):
    path = tmp_path / "config"
    path.write_text(text)
    monkeypatch.setenv("KUBECONFIG", str(path))
    with pytest.raises(NoCluster, match="is not usable"):
        Cluster.connect()


def test_inside_a_pod_its_own_account_is_used(tmp_path, monkeypatch):
    from kubernetes.config import incluster_config

    for name, text in (("token", "t"), ("ca.crt", "c"), ("namespace", "inside")):
        (tmp_path / name).write_text(text)
    monkeypatch.setenv("KUBECONFIG", str(tmp_path / "nothing"))
    monkeypatch.setenv("KUBERNETES_SERVICE_HOST", "10.0.0.1")
    monkeypatch.setenv("KUBERNETES_SERVICE_PORT", "443")
    monkeypatch.setattr(incluster_config, "SERVICE_TOKEN_FILENAME", str(tmp_path / "token"))
    monkeypatch.setattr(incluster_config, "SERVICE_CERT_FILENAME", str(tmp_path / "ca.crt"))
    monkeypatch.setattr("k8s.client._NAMESPACE_FILE", tmp_path / "namespace")
    with pytest.raises(NoCluster, match="certificate"):  # "c" is none: it was read
        Cluster.connect().get("ConfigMap", "x")
    (tmp_path / "ca.crt").write_text("")
    with pytest.raises(NoCluster, match=r"is not usable|no cluster is configured"):
        Cluster.connect()


# --- every refusal, in words ---------------------------------------------------------------------


@pytest.fixture
def cluster(kube, tmp_path, monkeypatch):
    return connected(tmp_path, kube, monkeypatch)


def test_403_says_which_right_is_missing(kube, cluster, job):
    kube.denied = {("create", "rayjobs")}
    with pytest.raises(AccessRefused) as error:
        cluster.create(job)
    assert "you may not create rayjobs in namespace default of context test" in str(error.value)
    assert 'User "someone" cannot create resource "rayjobs"' in str(error.value)


def test_404_of_the_kind_says_that_kuberay_is_missing(cluster, kube, job):
    kube.kuberay = False
    for call in (
        lambda: cluster.create(job),
        lambda: cluster.get("RayJob", "digits"),
        lambda: cluster.list("RayJob"),
    ):
        with pytest.raises(NotInstalled, match=r"no RayJob \(ray.io/v1\).*install KubeRay 1.7"):
            call()


def test_404_of_the_namespace_is_told_apart(kube, tmp_path, monkeypatch):
    monkeypatch.setenv("KUBECONFIG", str(kubeconfig(tmp_path, kube.url, namespace="missing")))
    with pytest.raises(ObjectRefused, match="there is no namespace missing of context test"):
        Cluster.connect().create(config_map("x"))


def test_409_of_a_name_is_no_error_and_of_a_version_is(kube, cluster, job):
    assert cluster.create(job)
    assert not cluster.create(job)
    job["metadata"]["resourceVersion"] = "1"
    with pytest.raises(ObjectRefused, match="was changed meanwhile; try again"):
        cluster.apply(job)


def test_422_says_what_is_not_taken(cluster, job):
    kuberay_schemas()
    job["spec"]["rayClusterSpec"]["headGroupSpec"]["serviceType"] = 5
    with pytest.raises(ObjectRefused, match=r"does not take RayJob digits: .*serviceType"):
        cluster.create(job)


@pytest.mark.parametrize("code", [429, 500, 503])
def test_a_server_in_trouble_is_passed_on(cluster, kube, code):
    kube.broken = code
    text = rf"context test cannot answer now \({code}\): etcdserver: request timed out"
    with pytest.raises(NoCluster, match=text):
        cluster.get("ConfigMap", "x")


def test_any_other_answer_is_passed_on(cluster, kube):
    kube.broken = 418
    with pytest.raises(ClusterError, match=r"get ConfigMap x in .* answer 418: etcdserver"):
        cluster.get("ConfigMap", "x")


def test_no_connection_names_the_server(tmp_path, monkeypatch, recwarn):
    monkeypatch.setenv("KUBECONFIG", str(kubeconfig(tmp_path, "http://127.0.0.1:9")))
    with pytest.raises(
        NoCluster, match=r"cannot reach the cluster at http://127.0.0.1:9: .*refused"
    ):
        Cluster.connect().get("ConfigMap", "x")


def test_all_of_them_end_a_command_with_3():
    for error in (ClusterError, NoCluster, AccessRefused, NotInstalled, ObjectRefused):
        assert issubclass(error, ClusterError)
        assert error.exit_code == 3


def test_every_kind_that_is_sent_is_known(tmp_path):
    from k8s.schedule import Schedule, schedule_manifests

    spec = made(tmp_path)
    manifests = [
        ray_job(spec, spec.cluster),
        *schedule_manifests(spec, spec.cluster, Schedule("0 2 * * *")),
    ]
    for manifest in manifests:
        path, _ = KINDS[manifest["kind"]]
        assert path.removeprefix("/apis/").removeprefix("/api/") == manifest["apiVersion"]
