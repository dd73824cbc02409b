"""Running a sweep: Ray Tune asks a searcher for trials, every ended trial becomes rows.

The rows are the only state: a sweep that starts on a study with rows tells them to a fresh
searcher and goes on. Ray is imported when a sweep starts, not before.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Any

from search.errors import SweepError
from search.front.front import ParetoFront
from search.observer import SweepObserver
from search.ray_session import ray_session
from search.recorder import Recorder
from search.spec.spec import SweepSpec
from search.stopping import scheduler_of
from search.study.lease import hold_lease
from search.study.rows import ResultRow
from search.study.study import Study
from search.warm_start import WarmStart, begin


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
    start: WarmStart | None = None,
) -> SweepOutcome:
    """Run a sweep, or go on with the study of the same name in the same storage.

    Rows that the study already has are not computed again. Ctrl-C (KeyboardInterrupt) ends the
    sweep with all finished rows kept.

    Args:
        spec: the sweep.
        observers: hear of what happens.
        start: rows of other studies that the searcher learns from, whose trials are not repeated,
            and whose best models are copied; None: what the study was begun with, if anything.

    Raises:
        StudyError: the study was made with a spec whose numbers cannot be compared.
        LeaseError: another driver runs this study.
        StorageError: the storage refused.
        SweepError: every trial fails for the same cause.
    """
    Study.check(spec)
    with hold_lease(Study(spec.study_location).lease_location) as lease:
        study = Study.create(spec)
        study.fence = lease.check
        return _run(study, spec, observers, begin(spec, study, start))


def _run(
    study: Study,
    spec: SweepSpec,
    observers: Sequence[SweepObserver],
    start: WarmStart,
) -> SweepOutcome:
    rows, left = list(study.rows()), study.running()
    recorder = Recorder(spec, study, rows, observers, start.told, start.hints, left)
    interrupted = False
    try:
        recorder.start()
        if recorder.remaining > 0 or recorder.not_measured_alone():
            with ray_session():
                if recorder.remaining > 0:
                    _run_trials(recorder)
                _measure_front_alone(recorder)
    except KeyboardInterrupt:
        interrupted = True
    finally:
        for observer in observers:
            observer.sweep_ended(interrupted=interrupted)
    if recorder.hopeless:
        raise SweepError(f"every trial failed: {recorder.hopeless}")
    front = ParetoFront.of(recorder.rows, spec.objective_list, spec.constraint_list)
    if not interrupted:
        for trial_id in recorder.paused:
            study.remove_running(trial_id)
        study.remove_artifacts(keep={row.trial_id for row in front.rows})
    return SweepOutcome(study, front, recorder.rows, interrupted)


# --- Ray Tune --------------------------------------------------------------------------------


def _run_trials(recorder: Recorder) -> None:
    """Run the remaining trials through Ray Tune."""
    from ray import tune

    from search.controller import HangWatch, tolerant_tune
    from search.tune_adapter import Events, NoProgress, Suggestions
    from trainables.tune_trial import TuneTrial
    from trainables.waiting import has_waited

    spec = recorder.spec
    with TemporaryDirectory(prefix="paretune-") as scratch:
        scheduler = scheduler_of(spec, recorder.rows)
        watch = HangWatch(spec.resources.trial_timeout_seconds, has_waited)
        events = Events(recorder, scheduler, watch)
        trainable = tune.with_resources(
            tune.with_parameters(TuneTrial, settings=_settings(recorder)),
            {"cpu": spec.resources.cpus_per_trial, "gpu": spec.resources.gpus_per_trial},
        )
        tuner = tune.Tuner(
            trainable,
            tune_config=tune.TuneConfig(
                search_alg=Suggestions(recorder, scheduler),
                scheduler=scheduler,
                num_samples=-1 if spec.stop.promote else recorder.remaining,
                max_concurrent_trials=spec.max_concurrent,
                reuse_actors=True,
            ),
            run_config=tune.RunConfig(
                name="tune",
                storage_path=scratch,
                verbose=0,
                callbacks=[events, NoProgress()],
                checkpoint_config=tune.CheckpointConfig(checkpoint_at_end=False),
                failure_config=tune.FailureConfig(max_failures=spec.resources.max_failures),
            ),
        )
        with tolerant_tune(watch, events.raise_error):
            tuner.fit()


def _measure_front_alone(recorder: Recorder) -> None:
    """Measure the latency of the front's members again, one at a time on an idle node."""
    import ray

    from trainables.artifact import measure_stored

    spec = recorder.spec
    on_gpu = spec.deploy.device == "cuda"
    task = ray.remote(num_cpus=spec.deploy.threads, num_gpus=int(on_gpu))(measure_stored)
    while row := recorder.not_measured_alone():
        location = recorder.study.artifact_path(row)
        recorder.measured_alone(row, ray.get(task.remote(location, spec.deploy)))


def _settings(recorder: Recorder) -> Any:
    from trainables.trial import TrialSettings

    spec = recorder.spec
    shared = spec.search.reuse_training and spec.space.shares_training(
        siblings=spec.search.siblings
    )
    return TrialSettings(
        data=spec.data,
        deploy=spec.deploy,
        artifacts_location=recorder.study.artifacts_location,
        bounds={c.metric.name: (c.low, c.high) for c in spec.constraint_list if c.metric.forecast},
        running_location=recorder.study.running_location,
        keep_every_epoch=spec.stop.promote,
        shared_location=recorder.study.networks_location if shared else None,
        sibling_bits=tuple(spec.space.bits_pairs) if spec.search.siblings else (),
        threads=max(1, int(spec.resources.cpus_per_trial)),
        gpu=spec.resources.gpus_per_trial > 0,
        import_paths=tuple(dict.fromkeys((*spec.import_paths, str(Path.cwd())))),
    )
