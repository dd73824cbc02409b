"""Rows as a sweep would write them, with numbers made up by the test."""

from search.study.rows import ResultRow
from trainables.config import TrialConfig
from trainables.contract import Status


def made_row(
    number: int,
    accuracy: float | None = None,
    size_bytes: float | None = None,
    latency_ms: float | None = None,
    *,
    status: Status = Status.MEASURED,
    config: TrialConfig | None = None,
    **more,
) -> ResultRow:
    """Give a row whose config, and so whose trial id, is its own by its seed."""
    config = config or TrialConfig(seed=number)
    metrics = {"accuracy": accuracy, "size_bytes": size_bytes, "latency_ms": latency_ms}
    return ResultRow(
        trial_id=config.trial_id,
        number=number,
        status=status,
        config=config,
        metrics={name: value for name, value in metrics.items() if value is not None},
        **more,
    )
