"""Sweep files with a `cluster:` section, and a cluster to send them to."""

import yaml

from k8s.client import Cluster
from k8s.sweep import load_cluster_sweep

SWEEP = {
    "name": "digits",
    "storage": "./studies",
    "data": {"name": "digits"},
    "space": {"learning_rate": {"log_uniform": [0.02, 0.2]}, "epochs": 2, "width": [8, 16]},
    "search": {"method": "random", "trials": 4},
    "cluster": {
        "image": "registry.example.com/paretune:1.0",
        "storage": {"claim": "studies"},
        "workers": [{"name": "cpu", "cpus": 2, "memory_gib": 4, "gpus": 0, "max_workers": 2}],
    },
}


def written(folder, *, name=None, **cluster):
    """Write a sweep file whose cluster section has these entries as well; give its path."""
    sweep = {**SWEEP, "cluster": {**SWEEP["cluster"], **cluster}}
    if name is not None:
        sweep["name"] = name
    path = folder / "sweep.yaml"
    path.write_text(yaml.safe_dump(sweep, allow_unicode=True))
    return path


def made(folder, *, name=None, **cluster):
    """Give the checked sweep of such a file."""
    return load_cluster_sweep(written(folder, name=name, **cluster))


def kubeconfig(folder, url, *, token="a-token-of-mine", namespace="default"):
    """Write a kubeconfig with two contexts, `test` and `other`, and give its path."""
    path = folder / "kubeconfig"
    contexts = [
        {"name": "test", "context": {"cluster": "c", "user": "u", "namespace": namespace}},
        {"name": "other", "context": {"cluster": "c", "user": "u", "namespace": "elsewhere"}},
    ]
    path.write_text(
        yaml.safe_dump(
            {
                "apiVersion": "v1",
                "kind": "Config",
                "clusters": [{"name": "c", "cluster": {"server": url}}],
                "users": [{"name": "u", "user": {"token": token}}],
                "contexts": contexts,
                "current-context": "test",
            }
        )
    )
    path.chmod(0o600)
    return path


def connected(folder, kube, monkeypatch):
    """Give a client of the server double, connected as a person is: by a kubeconfig."""
    monkeypatch.setenv("KUBECONFIG", str(kubeconfig(folder, kube.url)))
    return Cluster.connect()
