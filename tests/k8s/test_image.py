"""The image agrees with what the manifests say of it. Building it needs a container engine."""

import re
from pathlib import Path

import pytest

from k8s.manifests import ENTRYPOINT
from k8s.pods import USER_ID
from k8s.spec import RAY_VERSION

ROOT = Path(__file__).resolve().parents[2]
DOCKERFILE = (ROOT / "scripts/image/Dockerfile").read_text()


def instructions(name):
    joined = DOCKERFILE.replace("\\\n", " ")
    return [line.split(None, 1)[1] for line in joined.splitlines() if line.startswith(f"{name} ")]


def test_the_last_user_is_the_one_that_pods_run_as():
    assert instructions("USER")[-1] == f"{USER_ID}:{USER_ID}"


def test_ray_in_the_image_is_the_version_that_kuberay_is_told():
    pins = (ROOT / "constraints.txt").read_text().splitlines()
    assert f"ray=={RAY_VERSION}" in pins
    assert all(
        "--constraint constraints.txt" in r for r in instructions("RUN") if "pip install" in r
    )


def test_the_base_is_pinned_and_every_stage_has_it():
    assert re.fullmatch(r"PYTHON_IMAGE=python:3\.\d+\.\d+-slim-\w+", instructions("ARG")[0])
    assert {line.split()[0] for line in instructions("FROM")} == {"${PYTHON_IMAGE}"}


@pytest.mark.parametrize("line", instructions("COPY"))
def test_everything_copied_is_there_and_not_ignored(line):
    *sources, _ = line.split()
    if sources[0].startswith("--from"):
        return
    ignore = (ROOT / "scripts/image/Dockerfile.dockerignore").read_text().split()
    for source in sources:
        assert (ROOT / source).exists()
        assert f"!{source}" in ignore


def test_all_packages_are_copied():
    import tomllib

    project = tomllib.loads((ROOT / "pyproject.toml").read_text())
    rooms = {name.split(".")[0] for name in project["tool"]["setuptools"]["packages"]}
    assert rooms <= {line.split()[0] for line in instructions("COPY")}
    assert ENTRYPOINT.split()[0] in project["project"]["scripts"]
