"""Recording a network again gives what stands in the table, as far as another machine can."""

import json

import pytest
from bench.record import bits_name, record
from bench.table import bits_of, read_table


@pytest.mark.slow
def test_a_network_is_recorded_as_it_stands_in_the_table():
    table = read_table()
    wanted = {"width": 4, "depth": 1, "kernel_size": 3}
    config = next(c for c in table.spec.space.grid() if wanted.items() <= c.model_args.items())
    line = json.loads(json.dumps(record(config, table.spec, {})))
    network = table.network(config)
    assert line["curve"] == pytest.approx(network.curve, abs=0.1)
    for sibling in table.spec.space.bits_pairs:
        name = bits_name(
            config.model_copy(
                update=dict(zip(("weight_bits", "activation_bits"), sibling, strict=True))
            )
        )
        size_bytes, latency_ms = line["forecasts"][name]
        assert size_bytes == network.forecasts[sibling]["size_bytes"]
        assert latency_ms > 0
        assert line["files"][name][0] == pytest.approx(network.files[sibling]["accuracy"], abs=0.1)
    assert bits_of(config) in network.files
