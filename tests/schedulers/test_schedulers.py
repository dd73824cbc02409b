"""Schedulers keep their contract, and importing them does not import Ray."""

import math
import subprocess
import sys

import pytest

from contracts.scheduler_contract import (
    CONTINUE,
    Options,
    Race,
    SchedulerContract,
    StoppingContract,
)
from schedulers import SCHEDULERS


class TestNone(SchedulerContract):
    @pytest.fixture
    def method(self):
        return "none"

    def test_it_leaves_all_to_the_trials(self, options):
        race = Race(options)
        values = [0.9, 0.1, 0.0]
        assert race.survivors(values, 3) == values
        assert race.report(race.add(), 1, math.nan) == CONTINUE


class TestAsha(StoppingContract):
    @pytest.fixture
    def method(self):
        return "asha"

    def test_rungs_are_powers_of_the_reduction_factor_after_the_grace(self):
        race = Race(Options("asha", grace_epochs=2, reduction_factor=2), max_epochs=16)
        stopping = []
        for epoch in range(1, 16):
            best, worst = race.add(), race.add()
            for earlier in range(1, epoch):  # both were good until now
                race.report(best, earlier, 1.0)
                race.report(worst, earlier, 1.0)
            race.report(best, epoch, 1.0)
            if race.report(worst, epoch, 0.0) != CONTINUE:
                stopping.append(epoch)
        assert stopping == [2, 4, 8]


class TestParetoAsha(StoppingContract):
    @pytest.fixture
    def method(self):
        return "pareto_asha"


def test_every_scheduler_is_under_contract():
    assert SCHEDULERS.keys() == {"none", "asha", "pareto_asha"}


def test_ray_is_imported_only_when_a_scheduler_is_made():
    ran = subprocess.run(
        [sys.executable, "-c", "import schedulers, sys; print('ray' in sys.modules)"],
        capture_output=True,
        text=True,
        check=True,
    )
    assert ran.stdout.strip() == "False"
