"""Running a sweep: Ray Tune asks a searcher for trials, every ended trial becomes rows.

The rows are the only state: a sweep that starts on a study with rows tells them to a fresh
searcher and goes on. Ray is imported when a sweep starts, not before.
"""

from __future__ import annotations

import json
import logging
import os
import signal
import threading
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, fields
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Any

from schedulers import stop_reason
from search.errors import SweepError
from search.front.front import ParetoFront
from search.observer import SweepObserver
from search.recorder import Recorder
from search.spec import SweepSpec
from search.stopping import scheduler_of
from search.study.rows import ResultRow
from search.study.study import Study
from trainables.config import TrialConfig
from trainables.contract import Progress, Status

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


@dataclass(frozen=True)
class SweepOutcome:
    """What a sweep left behind."""

    study: Study
    front: ParetoFront
    rows: list[ResultRow]
    interrupted: bool


def run_sweep(
    spec: SweepSpec,
    *,
    observers: Sequence[SweepObserver] = (),
    told: Sequence[ResultRow] = (),
) -> SweepOutcome:
    """Run a sweep, or go on with the study of the same name in the same storage.

    Rows that the study already has are not computed again. Ctrl-C (KeyboardInterrupt) ends the
    sweep with all finished rows kept.

    Args:
        spec: the sweep.
        observers: hear of what happens.
        told: rows of other studies that the searcher learns from; their trials are not repeated.

    Raises:
        StudyError: the study was made with a spec whose numbers cannot be compared.
        StorageError: the storage refused.
        SweepError: every trial fails for the same cause.
    """
    study = Study.create(spec)
    recorder = Recorder(spec, study, list(study.rows()), observers, told)
    interrupted = False
    try:
        recorder.start()
        if recorder.remaining > 0:
            _run_trials(recorder)
    except KeyboardInterrupt:
        interrupted = True
    finally:
        for observer in observers:
            observer.sweep_ended(interrupted=interrupted)
    if recorder.hopeless:
        raise SweepError(f"every trial failed: {recorder.hopeless}")
    front = ParetoFront.of(recorder.rows, spec.objective_list, spec.constraint_list)
    if not interrupted:
        study.remove_artifacts(keep={row.trial_id for row in front.rows})
    return SweepOutcome(study, front, recorder.rows, interrupted)


# --- Ray Tune --------------------------------------------------------------------------------


def _run_trials(recorder: Recorder) -> None:
    """Run the remaining trials on a Ray cluster: the one at RAY_ADDRESS, else one of our own."""
    os.environ.update({k: os.environ.get(k, v) for k, v in RAY_ENVIRONMENT.items()})
    from ray import tune

    from trainables.trial import TuneTrial

    spec = recorder.spec
    scheduler = scheduler_of(spec, recorder.rows)
    with _ray(), TemporaryDirectory(prefix="paretune-") as scratch:
        trainable = tune.with_resources(
            tune.with_parameters(TuneTrial, settings=_settings(recorder)),
            {"cpu": spec.resources.cpus_per_trial, "gpu": spec.resources.gpus_per_trial},
        )
        tuner = tune.Tuner(
            trainable,
            tune_config=tune.TuneConfig(
                search_alg=_tune_searcher(recorder),
                scheduler=scheduler,
                num_samples=recorder.remaining,
                max_concurrent_trials=spec.max_concurrent,
                reuse_actors=True,
            ),
            run_config=tune.RunConfig(
                name="tune",
                storage_path=scratch,
                verbose=0,
                callbacks=[_tune_callback(recorder, scheduler)],
                checkpoint_config=tune.CheckpointConfig(checkpoint_at_end=False),
            ),
        )
        tuner.fit()


@contextmanager
def _ray() -> Iterator[None]:
    import ray

    if ray.is_initialized():  # the caller's own session
        yield
        return
    for name in ("ray", "ray.tune", "ray.train"):
        logging.getLogger(name).setLevel(logging.CRITICAL)
    address = os.environ.get("RAY_ADDRESS")
    local: dict[str, Any] = {} if address else {"include_dashboard": False}
    terminate = signal.getsignal(signal.SIGTERM)
    ray.init(
        address=address or "local",
        log_to_driver=False,
        logging_level=logging.CRITICAL,
        configure_logging=True,
        **local,
    )
    if threading.current_thread() is threading.main_thread():
        signal.signal(signal.SIGTERM, terminate)  # Ray put its own handler in its place
    try:
        yield
    finally:
        ray.shutdown()


def _settings(recorder: Recorder) -> Any:
    from trainables.trial import TrialSettings

    spec = recorder.spec
    return TrialSettings(
        data=spec.data,
        deploy=spec.deploy,
        artifacts_location=recorder.study.artifacts_location,
        bounds={c.metric.name: (c.low, c.high) for c in spec.constraint_list if c.metric.forecast},
        sibling_bits=tuple(spec.space.bits_pairs) if spec.search.siblings else (),
        threads=max(1, int(spec.resources.cpus_per_trial)),
        gpu=spec.resources.gpus_per_trial > 0,
        import_paths=tuple(dict.fromkeys((*spec.import_paths, str(Path.cwd())))),
    )


def _tune_searcher(recorder: Recorder) -> Any:
    from ray.tune.search import Searcher as TuneSearcher

    class Suggestions(TuneSearcher):  # type: ignore[misc]
        """Hands the searcher's trials to Tune; telling happens where rows are written."""

        def set_search_properties(self, *_: Any, **__: Any) -> bool:
            return True

        def suggest(self, trial_id: str) -> dict[str, Any] | str | None:
            config = None if recorder.hopeless else recorder.searcher.ask()
            return TuneSearcher.FINISHED if config is None else config.model_dump()

        def on_trial_complete(self, *_: Any, **__: Any) -> None:
            pass

        def save(self, checkpoint_path: str) -> None:
            pass

        def restore(self, checkpoint_path: str) -> None:
            pass

        def __reduce__(self) -> tuple[Any, ...]:
            return TuneSearcher, ()  # Tune stores a copy that is never read

    return Suggestions(metric=None, mode=None)


def _tune_callback(recorder: Recorder, scheduler: Any) -> Any:
    from ray import tune

    names = [f.name for f in fields(Progress)]

    class Events(tune.Callback):  # type: ignore[misc]
        """Turns Tune's events into rows."""

        def on_trial_start(self, iteration: int, trials: list[Any], trial: Any, **_: Any) -> None:
            recorder.trial_started(TrialConfig.model_validate(trial.config))

        def on_trial_result(
            self, iteration: int, trials: list[Any], trial: Any, result: dict[str, Any], **_: Any
        ) -> None:
            if "epoch" in result:
                config = TrialConfig.model_validate(trial.config)
                recorder.epoch_ended(config, Progress(**{name: result[name] for name in names}))

        def on_trial_complete(
            self, iteration: int, trials: list[Any], trial: Any, **_: Any
        ) -> None:
            config = TrialConfig.model_validate(trial.config)
            result = trial.last_result or {}
            if "reports" in result:
                pairs = json.loads(result["reports"])
                recorder.trial_ended([(TrialConfig.model_validate(c), r) for c, r in pairs])
            else:
                epoch = result.get("training_iteration", 0)
                why = stop_reason(scheduler, config.trial_id) or f"stopped after epoch {epoch}"
                reason = f"{recorder.spec.stop.method}: {why}"
                recorder.trial_ended([(config, {"status": Status.STOPPED, "reason": reason})])

        def on_trial_error(self, iteration: int, trials: list[Any], trial: Any, **_: Any) -> None:
            config = TrialConfig.model_validate(trial.config)
            lines = str(trial.get_error() or "its worker died").strip().splitlines()
            recorder.trial_ended([(config, {"status": Status.FAILED, "reason": lines[-1]})])

        def __reduce__(self) -> tuple[Any, ...]:
            return tune.Callback, ()

    return Events()
