"""The benchmark: the table is whole, the simulator counts right and repeats itself."""

import numpy as np
import pytest
from bench.analytic import PROBLEMS, analytic
from bench.methods import Own, Random, scheduler
from bench.search import Case, judged, run_case
from bench.simulate import simulate
from bench.table import bits_of, network_id, read_table

from search.front.pareto import hypervolume
from trainables.contract import Status


@pytest.fixture(scope="module")
def table():
    return read_table()


def test_every_combination_of_the_space_is_recorded(table):
    configs = list(table.spec.space.grid())
    assert len(configs) >= 600
    assert {network_id(config) for config in configs} == table.networks.keys()
    for config in configs:
        network = table.network(config)
        assert len(network.curve) == config.epochs
        file = network.files[bits_of(config)]
        assert 0 < file["accuracy"] <= 1
        assert file["size_bytes"] == network.forecasts[bits_of(config)]["size_bytes"]


def test_the_front_of_the_table_is_worth_1(table):
    assert len(table.front) > 10
    assert hypervolume(table.losses) == pytest.approx(table.hypervolume)


def test_without_stopping_each_training_costs_its_epochs(table):
    method = Own(table.spec, "random", 0, siblings=True)
    run = simulate(table, method, scheduler(table.spec, "none", 0), budget_epochs=90, workers=1)
    assert (run.epochs, run.started, run.finished) == (90, 11, 10)
    assert [epochs for epochs, _ in run.found] == [9 * k for k in range(1, 11) for _ in range(6)]


def test_a_scheduler_saves_epochs_and_finishes_fewer(table):
    runs = {}
    for stop in ("none", "asha", "pareto_asha"):
        method = Random(table.spec, 1)
        chosen = scheduler(table.spec, stop, 1)
        runs[stop] = simulate(table, method, chosen, budget_epochs=180, workers=4)
    assert runs["none"].started < runs["pareto_asha"].started < runs["asha"].started
    assert runs["none"].finished > runs["pareto_asha"].finished
    assert all(run.epochs == 180 for run in runs.values())


def test_a_run_repeats_itself(table):
    case = Case("random", "pareto_asha", siblings=True)
    first, second = (run_case(table, case, 3, 90) for _ in range(2))
    assert first.pop("seconds") >= 0 <= second.pop("seconds")
    assert first == second
    assert first != run_case(table, case, 4, 90)


def test_a_space_that_is_used_up_ends_the_sweep(table):
    method = Own(table.spec, "random", 0, siblings=True)
    run = simulate(table, method, scheduler(table.spec, "none", 0), budget_epochs=10**6)
    found = judged(table, run, 10**6)
    assert found["front"] == 1.0
    assert found["hypervolume"][-1] == pytest.approx(1.0, abs=1e-4)


def test_rows_are_told_as_a_sweep_would(table):
    told = []

    class Listening(Own):
        def tell(self, rows):
            told.extend(rows)
            super().tell(rows)

    method = Listening(table.spec, "random", 0, siblings=True)
    simulate(table, method, scheduler(table.spec, "asha", 0), budget_epochs=90)
    stopped = [row for row in told if row.status is Status.STOPPED]
    siblings = [row for row in told if row.origin == "sibling"]
    assert stopped
    assert siblings
    assert all(len(row.curve) == row.epochs_trained < 9 for row in stopped)
    assert all(row.metrics["accuracy"] == row.curve[-1]["accuracy"] for row in stopped)
    assert {row.parent for row in siblings} <= {row.trial_id for row in told}


@pytest.mark.parametrize("name", PROBLEMS)
def test_no_evaluation_beats_the_front_of_an_analytic_problem(name):
    problem = analytic(name)
    method = Random(problem.spec, 0)
    run = simulate(problem, method, scheduler(problem.spec, "none", 0), budget_epochs=60)
    found = judged(problem, run, 60)
    assert len(run.found) == 60
    assert 0 <= found["hypervolume"][-1] < 1
    assert np.all(np.diff(found["hypervolume"]) >= 0)
