import fcntl
import gc
import json
import multiprocessing
import os
import tempfile
import time
from importlib.metadata import version

import numpy as np
import onnx
import pytest
import torch
from torch import nn

from trainables import latency, measure
from trainables.config import DeployConfig
from trainables.errors import TrialError
from trainables.export import export_float, serialise
from trainables.latency import paired_ratio, reference_ms, student_t
from trainables.measure import (
    bound_runner,
    disagreement,
    environment,
    executed_operators,
    measure_latency,
    open_session,
    predict,
    score,
)
from trainables.quantize import quantize

SIZE = 16


def net(width=8):
    with torch.random.fork_rng():
        torch.manual_seed(0)
        return nn.Sequential(
            nn.Conv2d(3, width, 3, padding=1),
            nn.BatchNorm2d(width),
            nn.ReLU(),
            nn.Conv2d(width, width, 3, padding=1),
            nn.ReLU(),
            nn.AdaptiveAvgPool2d(1),
            nn.Flatten(),
            nn.Linear(width, 4),
        ).eval()


def file_of(model, size=SIZE):
    return serialise(export_float(model, channels=3, image_size=size), {})


def images(n, size=SIZE):
    return np.random.default_rng(0).normal(size=(n, 3, size, size)).astype(np.float32)


@pytest.fixture
def node(monkeypatch, tmp_path):
    """A node that nothing was measured on, and a short look at its reference."""
    monkeypatch.setattr(tempfile, "tempdir", str(tmp_path))
    monkeypatch.setattr(latency, "REFERENCE_RUNS", 50)
    return tmp_path


# --- answers -------------------------------------------------------------------------------------


def test_predictions_do_not_depend_on_the_batches(tmp_path):
    model, batch = net(), images(7)
    (tmp_path / "model.onnx").write_bytes(file_of(model))
    with torch.no_grad():
        expected = model(torch.from_numpy(batch)).numpy()
    for source in (file_of(model), tmp_path / "model.onnx", str(tmp_path / "model.onnx")):
        for batch_size in (2, 7, 256):
            got = predict(open_session(source), batch, batch_size)
            np.testing.assert_allclose(got, expected, atol=1e-5)


def test_the_score_is_the_share_of_right_answers():
    session, batch = open_session(file_of(net())), images(8)
    labels = predict(session, batch).argmax(axis=1)
    assert score(session, batch, labels) == 1.0
    labels[:2] += 1
    assert score(session, batch, labels) == 0.75


@pytest.mark.parametrize(("scale", "expected"), [(1.0, 0.5), (1000.0, 0.5 / 1000)])
def test_disagreement_is_relative_to_large_outputs_and_absolute_below_one(scale, expected):
    model = net()
    model[-1].weight.data.zero_()
    model[-1].bias.data.copy_(torch.tensor([0.0, 0.2, -1.0, 0.3]) * scale)
    outputs = np.tile(model[-1].bias.detach().numpy(), (3, 1))
    session = open_session(file_of(model))
    assert disagreement(session, outputs, images(3)) == pytest.approx(0, abs=1e-6)
    outputs[1, 3] -= 0.5
    assert disagreement(session, outputs, images(3)) == pytest.approx(expected, rel=1e-4)


def test_what_is_executed_is_told_by_the_runtime_not_by_the_file():
    proto = export_float(net(), channels=3, image_size=SIZE)
    assert executed_operators(serialise(proto, {}))["Conv"] == 2
    assert "Relu" not in executed_operators(serialise(proto, {}))  # fused
    quantized = quantize(proto, weight_bits=8, activation_bits=8, calibration=images(4))
    executed = executed_operators(serialise(quantized, {}))
    assert executed["QLinearConv"] == 2
    assert "Conv" not in executed


def test_a_device_that_the_runtime_lacks_says_what_to_install(monkeypatch):
    monkeypatch.setattr(
        measure.onnxruntime, "get_available_providers", lambda: ["CPUExecutionProvider"]
    )
    with pytest.raises(TrialError, match=r"CUDAExecutionProvider.*onnxruntime-gpu"):
        open_session(file_of(net()), device="cuda")


def test_a_runtime_that_falls_back_to_the_cpu_is_an_error(monkeypatch):
    available = ["CUDAExecutionProvider", "CPUExecutionProvider"]
    monkeypatch.setattr(measure.onnxruntime, "get_available_providers", lambda: available)

    class OnlyCpu:
        def __init__(self, *_, **__):
            pass

        def get_providers(self):
            return ["CPUExecutionProvider"]

    monkeypatch.setattr(measure.onnxruntime, "InferenceSession", OnlyCpu)
    with pytest.raises(TrialError, match="could not start CUDAExecutionProvider"):
        open_session(b"", device="cuda")


def test_a_bound_runner_infers_the_images_it_was_given():
    class Watched:
        """The session, but its results are kept."""

        def __init__(self, session):
            self.session = session

        def __getattr__(self, name):
            return getattr(self.session, name)

        def run_with_iobinding(self, binding):
            self.session.run_with_iobinding(binding)
            self.result = binding.copy_outputs_to_cpu()[0]

    watched, batch = Watched(open_session(file_of(net()))), images(2)
    bound_runner(watched, batch)()
    np.testing.assert_allclose(watched.result, predict(watched.session, batch), atol=1e-6)


# --- pairs ---------------------------------------------------------------------------------------


class FakeMachine:
    """A clock that only running models moves, and a log of who ran."""

    def __init__(self, candidate_ns, reference_ns):
        self.durations = {"candidate": candidate_ns, "reference": reference_ns}
        self.now, self.log = 0, []

    def clock(self):
        return self.now

    def runner(self, name):
        def run():
            self.log.append(name)
            self.now += int(self.durations[name]())

        return run

    def measure(self, half_width=0.015, max_seconds=60.0):
        return paired_ratio(
            self.runner("candidate"),
            self.runner("reference"),
            self.clock,
            half_width=half_width,
            max_seconds=max_seconds,
        )


def noisy(mean, spread, seed):
    rng = np.random.default_rng(seed)
    return lambda: mean * (1 + spread * rng.exponential())


def test_candidate_and_reference_alternate_and_the_ratio_is_exact():
    machine = FakeMachine(lambda: 3000, lambda: 1000)
    ratio = machine.measure()
    assert (ratio.low, ratio.value, ratio.high) == (3.0, 3.0, 3.0)
    assert ratio.pairs == 100
    warm = 2 * latency.WARM_UP_RUNS
    assert machine.log[warm:] == ["candidate", "reference", "reference"] * 100
    assert sorted(machine.log[:warm]) == ["candidate"] * 20 + ["reference"] * 20


def test_only_the_second_run_of_the_reference_counts():
    machine = FakeMachine(lambda: 3000, lambda: next(times))
    times = iter([1000] * latency.WARM_UP_RUNS + [9999, 1000] * 100)
    assert machine.measure().value == 3.0


def test_interruptions_do_not_move_the_ratio():
    rng = np.random.default_rng(0)
    machine = FakeMachine(
        lambda: 3000 + (rng.random() < 0.3) * 50_000, lambda: 1000 + (rng.random() < 0.3) * 50_000
    )
    assert machine.measure().value == pytest.approx(3.0)


@pytest.mark.parametrize("seed", range(5))
def test_noise_is_measured_until_the_interval_is_narrow(seed):
    machine = FakeMachine(noisy(3e6, 1.0, seed), noisy(1e6, 1.0, seed + 100))
    ratio = machine.measure(half_width=0.01)
    assert ratio.pairs > 100
    assert ratio.half_width <= 0.01
    assert ratio.low < ratio.value < ratio.high
    assert ratio.value == pytest.approx(3.0, rel=0.05)


def test_it_ends_when_the_time_is_up():
    machine = FakeMachine(noisy(3e6, 1.0, 0), noisy(1e6, 1.0, 1))
    assert machine.measure(half_width=1e-9, max_seconds=0).pairs == 5 * latency.LEAST_PAIRS


def test_slow_models_take_fewer_runs():
    machine = FakeMachine(lambda: 60_000_000, lambda: 1_000_000)
    ratio = machine.measure(max_seconds=1.5)
    assert ratio.pairs == 25  # five blocks of five: 1.5 s
    assert machine.log.count("candidate") == 3 + 25


def test_the_quantiles_of_student_t_are_those_of_the_tables():
    table = {4: 2.776, 5: 2.571, 9: 2.262, 14: 2.145, 29: 2.045, 120: 1.980}
    assert {n: student_t(n) for n in table} == pytest.approx(table, rel=3e-3)


# --- the reference -------------------------------------------------------------------------------


def test_the_reference_is_timed_once_per_device(tmp_path):
    machine = FakeMachine(None, lambda: 2_000_000)
    run = machine.runner("reference")
    assert reference_ms("cpu one", run, machine.clock, tmp_path) == 2.0
    runs = len(machine.log)
    machine.durations["reference"] = lambda: 5_000_000
    assert reference_ms("cpu one", run, machine.clock, tmp_path) == 2.0
    assert len(machine.log) == runs
    assert reference_ms("cpu two", run, machine.clock, tmp_path) == 5.0
    kept = json.loads((tmp_path / "reference_ms.json").read_text())
    assert kept == {"cpu one": 2.0, "cpu two": 5.0}


def test_a_damaged_note_of_the_reference_is_written_anew(tmp_path):
    (tmp_path / "reference_ms.json").write_text('{"cpu": 2')
    machine = FakeMachine(None, lambda: 3_000_000)
    assert reference_ms("cpu", machine.runner("reference"), machine.clock, tmp_path) == 3.0
    assert json.loads((tmp_path / "reference_ms.json").read_text()) == {"cpu": 3.0}


def test_the_reference_is_always_the_same_file():
    assert latency.reference_model() == latency.reference_model.__wrapped__()
    onnx.checker.check_model(onnx.load_from_string(latency.reference_model()))


# --- the measurement -----------------------------------------------------------------------------


@pytest.mark.usefixtures("node")
def test_more_work_takes_longer_and_the_interval_holds_the_value():
    small, large = (
        measure_latency(file_of(net(width), 32), DeployConfig(), images(1, 32))
        for width in (8, 64)
    )
    assert large.ratio > 2 * small.ratio  # 64 times the work of the second layer
    for found in (small, large):
        assert 0 < found.low_ms <= found.ms <= found.high_ms
        assert found.clock == "thread_cpu"
        assert found.runs >= 100
        assert (found.threads, found.batch_size, found.device) == (1, 1, "cpu")
    assert small.ms / small.ratio == pytest.approx(large.ms / large.ratio)


@pytest.mark.usefixtures("node")
def test_a_batch_is_measured_whole_and_threads_by_the_wall_clock(monkeypatch):
    shapes = []

    def spy(session, batch, device):
        shapes.append((batch.shape, session.get_session_options().intra_op_num_threads))
        return bound_runner(session, batch, device)

    monkeypatch.setattr(measure, "bound_runner", spy)
    deploy = DeployConfig(batch_size=16, threads=2)
    found = measure_latency(file_of(net()), deploy, images(1), max_seconds=0.01)
    assert ((16, 3, SIZE, SIZE), 2) in shapes
    assert (found.clock, found.threads, found.batch_size) == ("wall", 2, 16)


@pytest.mark.usefixtures("node")
def test_the_process_is_pinned_and_undisturbed_and_gets_all_back_after_an_error(monkeypatch):
    before = os.sched_getaffinity(0)
    seen = {}

    def fail(*_, **__):
        seen.update(cpus=len(os.sched_getaffinity(0)), gc=gc.isenabled())
        raise RuntimeError("in between")

    monkeypatch.setattr(measure, "paired_ratio", fail)
    with pytest.raises(RuntimeError, match="in between"):
        measure_latency(file_of(net()), DeployConfig(), images(1))
    assert seen == {"cpus": 1, "gc": False}
    assert os.sched_getaffinity(0) == before
    assert gc.isenabled()
    with latency.exclusive(latency.private_folder()):  # free again
        pass


def test_a_disabled_collector_stays_disabled():
    gc.disable()
    try:
        with latency.without_gc():
            pass
        assert not gc.isenabled()
    finally:
        gc.enable()


def hold_lock(folder, held, release):
    with latency.exclusive(folder):
        held.set()
        release.wait(30)


@pytest.mark.filterwarnings("ignore:This process .* is multi-threaded:DeprecationWarning")
def test_only_one_process_measures_at_a_time(tmp_path, monkeypatch):
    context = multiprocessing.get_context("fork")
    held, release = context.Event(), context.Event()
    other = context.Process(target=hold_lock, args=(tmp_path, held, release))
    other.start()
    try:
        assert held.wait(30)
        with (
            (tmp_path / "measure.lock").open("a") as lock,
            pytest.raises(BlockingIOError),
        ):
            fcntl.flock(lock, fcntl.LOCK_EX | fcntl.LOCK_NB)
        # Who waits for the other's end gives signs of life: here, the third lets the other go.
        monkeypatch.setattr(latency, "SIGN_SECONDS", 0.01)
        signs = []
        sign = latency.waiting_sign.set(
            lambda: signs.append(1) or (len(signs) == 3 and release.set())
        )
        with latency.exclusive(tmp_path):
            assert release.is_set()
            before = len(signs)
            time.sleep(0.05)
            assert len(signs) == before
        latency.waiting_sign.reset(sign)
    finally:
        release.set()
        other.join(30)
    assert other.exitcode == 0


def test_the_shared_folder_is_private(node):
    folder = latency.private_folder()
    assert folder == node / f"paretune-{os.getuid()}"
    assert folder.stat().st_mode & 0o777 == 0o700
    assert latency.private_folder() == folder
    folder.chmod(0o777)
    with pytest.raises(TrialError, match="only its owner"):
        latency.private_folder()


def test_a_link_in_place_of_the_shared_folder_is_refused(node):
    (node / "elsewhere").mkdir()
    (node / f"paretune-{os.getuid()}").symlink_to(node / "elsewhere")
    with pytest.raises(TrialError, match="only its owner"):
        latency.private_folder()


# --- environment ---------------------------------------------------------------------------------


def test_the_environment_says_what_the_numbers_depend_on():
    found = environment(DeployConfig(threads=2))
    assert json.loads(json.dumps(found)) == found
    assert found["onnxruntime"] == measure.onnxruntime.__version__
    assert found["torch"] == version("torch")
    assert {"python", "onnx", "numpy", "cpu", "cpu_flags", "machine"} <= found.keys()
    assert found["threads"] == 2
    assert found["providers"] == ["CPUExecutionProvider"]
    found.clear()
    assert environment(DeployConfig(threads=2))  # nobody can spoil it
