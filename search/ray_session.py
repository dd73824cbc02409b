"""Ray for one sweep: the cluster at RAY_ADDRESS, else one of our own on this machine.

A cluster of our own listens on the loopback address only, and asks for a token that only the user
can read.
"""

from __future__ import annotations

import logging
import os
import secrets
import signal
import threading
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from pathlib import Path
from typing import Any

from search.errors import SweepError

RAY_ENVIRONMENT = {
    "RAY_USAGE_STATS_ENABLED": "0",
    "RAY_ACCEL_ENV_VAR_OVERRIDE_ON_ZERO": "0",
    "RAY_TRAIN_ENABLE_V2_MIGRATION_WARNINGS": "0",
    # Rows and logs of our own replace those of Tune, which cost a third of its event loop.
    "TUNE_DISABLE_AUTO_CALLBACK_LOGGERS": "1",
    # Ctrl-C reaches the caller of run_sweep as KeyboardInterrupt.
    "TUNE_DISABLE_SIGINT_HANDLER": "1",
    # The new output prints a table per failed trial even when it is told to be silent.
    "RAY_AIR_NEW_OUTPUT": "0",
    # Tune's experiment state is never read: the study's rows are the state.
    "TUNE_GLOBAL_CHECKPOINT_S": "86400",
    "TUNE_WARN_EXCESSIVE_EXPERIMENT_CHECKPOINT_SYNC_THRESHOLD_S": "0",
}


log = logging.getLogger("paretune")

LOOPBACK = {"RAY_ENABLE_WINDOWS_OR_OSX_CLUSTER": "0"}
"""By this switch Ray takes 127.0.0.1 for the address of the machine, and listens nowhere else."""


@contextmanager
def ray_session() -> Iterator[None]:
    """Connect to Ray, or start it; a session that the caller has already is used as it is."""
    address = os.environ.get("RAY_ADDRESS")
    settings = RAY_ENVIRONMENT if address else RAY_ENVIRONMENT | LOOPBACK
    os.environ.update({name: os.environ.get(name, value) for name, value in settings.items()})
    import ray

    if ray.is_initialized():
        yield
        return
    if not address:
        try:
            _keep_token_private()
        except OSError as error:
            log.warning("Ray's token file may be readable by others: %s", error)
    for name in ("ray", "ray.tune", "ray.train"):
        logging.getLogger(name).setLevel(logging.CRITICAL)
    local: dict[str, Any] = {} if address else {"include_dashboard": False}
    terminate = signal.getsignal(signal.SIGTERM)
    try:
        ray.init(
            address=address or "local",
            log_to_driver=False,
            logging_level=logging.CRITICAL,
            configure_logging=True,
            **local,
        )
    except Exception as error:  # Ray raises bare Exceptions when its processes do not come up
        where = (
            f"the Ray cluster at {address} cannot be reached" if address else "Ray did not start"
        )
        raise SweepError(f"{where}: {error}") from error
    if threading.current_thread() is threading.main_thread():
        signal.signal(signal.SIGTERM, terminate)  # Ray put its own handler in its place
    try:
        yield
    finally:
        ray.shutdown()


def _keep_token_private() -> None:
    """Make the file of Ray's token, or take others' rights to it away: Ray leaves it readable."""
    if os.environ.get("RAY_AUTH_TOKEN") or os.environ.get("RAY_AUTH_TOKEN_PATH"):
        return  # the user's own
    path = Path.home() / ".ray" / "auth_token"
    path.parent.mkdir(mode=0o700, parents=True, exist_ok=True)
    with suppress(FileExistsError):
        descriptor = os.open(path, os.O_CREAT | os.O_EXCL | os.O_WRONLY, 0o600)
        with os.fdopen(descriptor, "w") as file:
            file.write(secrets.token_hex(32))
    if path.stat().st_mode & 0o077:
        path.chmod(0o600)
