"""Hermetic ground for all tests: own cache, own Ray folder, one thread per library."""

import os
import tempfile

_GROUND = tempfile.TemporaryDirectory(prefix="pt-")  # short: Ray's socket paths are limited

os.environ["PARETUNE_CACHE"] = f"{_GROUND.name}/cache"
os.environ["RAY_TMPDIR"] = _GROUND.name
os.environ["RAY_USAGE_STATS_ENABLED"] = "0"
os.environ["HOME"] = _GROUND.name
os.environ["NO_COLOR"] = "1"
os.environ.pop("RAY_ADDRESS", None)
for _name in ("OMP_NUM_THREADS", "OPENBLAS_NUM_THREADS", "MKL_NUM_THREADS"):
    os.environ[_name] = "1"


def pytest_collection_modifyitems(items):
    """Run the slow tests last, so that a mistake shows early."""
    items.sort(key=lambda item: "slow" in item.keywords)


def pytest_sessionfinish():
    """Remove the ground."""
    _GROUND.cleanup()
