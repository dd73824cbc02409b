"""What a cluster does with our requests: run against the double, and against a real one."""

import pytest

from k8s.errors import ObjectRefused


def config_map(name, **data):
    labels = {"app.kubernetes.io/managed-by": "paretune-test"}
    return {
        "apiVersion": "v1",
        "kind": "ConfigMap",
        "metadata": {"name": name, "labels": labels},
        "data": data,
    }


class ClusterContract:
    """Subclasses give the fixture `cluster`, and names that nobody else uses by `unique`.

    The fixture `job` is the manifest of a RayJob that may be sent as it is; `strict` skips where
    the cluster does not know the fields of one.
    """

    def test_an_object_is_made_once(self, cluster, unique):
        manifest = config_map(unique, a="1")
        assert cluster.get("ConfigMap", unique) is None
        assert cluster.create(manifest) is True
        assert cluster.create(config_map(unique, a="2")) is False
        assert cluster.get("ConfigMap", unique)["data"] == {"a": "1"}

    def test_apply_makes_and_changes(self, cluster, unique):
        cluster.apply(config_map(unique, a="1", b="1"))
        first = cluster.get("ConfigMap", unique)
        cluster.apply(config_map(unique, a="2", b="1"))
        second = cluster.get("ConfigMap", unique)
        assert second["data"] == {"a": "2", "b": "1"}
        assert second["metadata"]["uid"] == first["metadata"]["uid"]
        assert second["metadata"]["resourceVersion"] != first["metadata"]["resourceVersion"]

    def test_a_dry_run_leaves_nothing(self, cluster, unique):
        cluster.apply(config_map(unique), dry_run=True)
        assert cluster.create(config_map(unique), dry_run=True) is True
        assert cluster.get("ConfigMap", unique) is None

    def test_lists_are_chosen_by_label_and_field(self, cluster, unique):
        manifest = config_map(unique)
        manifest["metadata"]["labels"]["test"] = unique
        cluster.create(manifest)
        names = [
            m["metadata"]["name"] for m in cluster.list("ConfigMap", selector=f"test={unique}")
        ]
        assert names == [unique]
        found = cluster.list("ConfigMap", fields=f"metadata.name={unique}")
        assert [m["metadata"]["name"] for m in found] == [unique]
        assert cluster.list("ConfigMap", selector="test=nothing-has-this") == []

    def test_what_is_deleted_is_gone(self, cluster, unique):
        cluster.create(config_map(unique))
        assert cluster.delete("ConfigMap", unique) is True
        assert cluster.get("ConfigMap", unique) is None
        assert cluster.delete("ConfigMap", unique) is False

    def test_an_unknown_field_is_refused_and_named(self, cluster, unique, job, strict):
        with pytest.raises(ObjectRefused, match="dataa"):
            cluster.apply({**config_map(unique), "dataa": {}})
        job["metadata"]["name"] = unique
        job["spec"]["entrypiont"] = "x"
        with pytest.raises(ObjectRefused, match="entrypiont"):
            cluster.create(job)

    def test_a_wrong_type_is_refused(self, cluster, unique, job, strict):
        job["metadata"]["name"] = unique
        job["spec"]["backoffLimit"] = "many"
        with pytest.raises(ObjectRefused, match="backoffLimit"):
            cluster.create(job)

    def test_a_bad_name_is_refused(self, cluster):
        with pytest.raises(ObjectRefused, match="Bad_Name"):
            cluster.create(config_map("Bad_Name"))

    def test_a_job_is_made_with_its_defaults(self, cluster, unique, job, strict):
        job["metadata"]["name"] = unique
        assert cluster.create(job, dry_run=True) is True
        job["spec"]["suspend"] = True  # nothing starts
        assert cluster.create(job) is True
        assert cluster.get("RayJob", unique)["spec"]["submissionMode"] == "HTTPMode"
        assert cluster.delete("RayJob", unique) is True
