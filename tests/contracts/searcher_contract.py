"""What every searcher must keep, whatever it suggests."""

import subprocess
import sys
from itertools import islice
from pathlib import Path

import pytest
from analytic_trials import SPACE, analytic_rows, analytic_sweep
from made_rows import made_row

from search.searchers import make_searcher
from search.spec.spec import SweepSpec
from trainables.contract import Status

TESTS = str(Path(__file__).parents[1])
SMALL = {
    "learning_rate": [0.01, 0.1],
    "batch_size": [16, 32],
    "pruning_method": ["none", "filter"],
    "pruning_ratio": [0.0, 0.5],
    "weight_bits": [32, 16],
    "activation_bits": [32, 8],
}
"""32 points, 16 of them of other bits than are run, 8 of the rest saying the same as others."""
TRIALS_BEFORE = 12
"""More than any model waits for."""
GO_ON_IN_ANOTHER_PROCESS = """
import sys
sys.path.append(sys.argv[2])
from pathlib import Path
from search.study.rows import ResultRow
from contracts.searcher_contract import asked, large_sweep
lines = Path(sys.argv[3]).read_text().splitlines()
rows = [ResultRow.model_validate_json(line) for line in lines]
print(*(config.trial_id for config in asked(large_sweep(sys.argv[1]), 3, rows)))
"""
ASK_IN_ANOTHER_PROCESS = """
import sys
sys.path.append(sys.argv[2])
from contracts.searcher_contract import asked_ids, sweep
print(*asked_ids(sweep(sys.argv[1]), 8))
"""


def sweep(method: str, space=None, seed: int = 3) -> SweepSpec:
    return SweepSpec.model_validate(
        {
            "name": "s",
            "seed": seed,
            "data": {"name": "digits"},
            "space": space or SMALL,
            "search": {"method": method},
        }
    )


def large_sweep(method: str) -> SweepSpec:
    """A sweep of many dimensions; for a grid, without the continuous ones."""
    spec = analytic_sweep(method, 3)
    if method != "grid":
        return spec
    space = {k: v for k, v in SPACE.items() if k not in ("learning_rate", "pruning_ratio")}
    space["pruning_ratio"] = [0.0, 0.5]
    return analytic_sweep(method, 3, space=space)


def row_of(config, number, status=Status.MEASURED):
    return made_row(number, 0.9, 1e4, 0.1, config=config, status=status)


def asked(spec: SweepSpec, most: int = 1000, rows=()):
    """Ask a fresh searcher, telling nothing but earlier rows, until it is exhausted."""
    searcher = make_searcher(spec)
    for row in rows:
        searcher.tell(row)
    return list(islice(iter(searcher.ask, None), most))


def asked_ids(spec: SweepSpec, most: int = 1000) -> list[str]:
    return [config.trial_id for config in asked(spec, most)]


class SearcherContract:
    """Inherit, and give the fixture `method`."""

    @pytest.fixture
    def spec(self, method) -> SweepSpec:
        return sweep(method)

    def test_suggests_canonical_configs_of_the_space(self, spec):
        configs = asked(spec)
        assert configs
        assert all(config == config.canonical() for config in configs)
        assert all(spec.space.contains(config) for config in configs)

    def test_all_of_a_small_space_without_repeats_then_none(self, spec):
        searcher = make_searcher(spec)
        configs = list(iter(searcher.ask, None))
        assert len({config.trial_id for config in configs}) == len(configs) == spec.space.size()
        assert searcher.ask() is None

    def test_the_seed_decides_also_in_another_process(self, spec, method):
        second = subprocess.run(
            [sys.executable, "-c", ASK_IN_ANOTHER_PROCESS, method, TESTS],
            capture_output=True,
            text=True,
            check=True,
        )
        assert second.stdout.split() == asked_ids(spec, 8)
        assert asked_ids(sweep(method, seed=4), 8) != asked_ids(spec, 8)

    def test_rows_alone_rebuild_it_in_another_process(self, method, tmp_path):
        spec = large_sweep(method)
        searcher = make_searcher(spec)
        rows = []
        for number in range(TRIALS_BEFORE):
            told = analytic_rows(searcher.ask(), 10 * number, spec.space.bits_pairs)
            rows += told
            for row in told:
                searcher.tell(row)
        file = tmp_path / "rows.jsonl"
        file.write_text("\n".join(row.model_dump_json() for row in rows))
        second = subprocess.run(
            [sys.executable, "-c", GO_ON_IN_ANOTHER_PROCESS, method, TESTS, str(file)],
            capture_output=True,
            text=True,
            check=True,
        )
        assert second.stdout.split() == [searcher.ask().trial_id for _ in range(3)]

    def test_goes_on_from_rows_without_repeats(self, spec):
        first = asked(spec, 5)
        rows = [row_of(config, i) for i, config in enumerate(first)]
        rest = asked(spec, rows=rows)
        assert not {c.trial_id for c in first} & {c.trial_id for c in rest}
        assert len(first) + len(rest) == spec.space.size()

    def test_the_order_of_telling_does_not_matter(self, spec):
        rows = [row_of(config, i) for i, config in enumerate(asked(spec, 5))]
        assert asked(spec, rows=rows) == asked(spec, rows=rows[::-1])

    def test_configs_under_way_are_not_asked_again(self, spec):
        searcher = make_searcher(spec)
        under_way = [searcher.ask() for _ in range(6)]
        for i, config in enumerate(under_way[::2]):
            searcher.tell(row_of(config, i, Status.FAILED))
        rest = list(iter(searcher.ask, None))
        assert not {c.trial_id for c in under_way} & {c.trial_id for c in rest}

    def test_rows_of_configs_never_asked_for_count(self, spec):
        sibling = asked(spec)[-1]
        outsider = sibling.model_copy(update={"learning_rate": 0.7})
        rows = [row_of(sibling, 1), row_of(outsider, 2)]
        configs = asked(spec, rows=rows)
        assert sibling not in configs
        assert len(configs) == spec.space.size() - 1

    def test_a_single_config_is_a_space(self, method):
        spec = sweep(method, {"epochs": 3})
        assert len(asked(spec)) == 1
