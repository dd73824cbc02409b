"""Hyperparameter search over compressible CNNs: one sweep file in, a measured Pareto front out.

```python
import paretune

spec = paretune.load_sweep("sweep.yaml")
outcome = paretune.run_sweep(spec)
for row in outcome.front.rows:
    print(row.trial_id, row.metrics)
```
"""

from __future__ import annotations

from importlib import import_module
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from search.front.front import read_front
    from search.spec.spec_file import load_sweep
    from search.sweep import run_sweep

    __version__: str

__all__ = ["__version__", "load_sweep", "read_front", "run_sweep"]

_HOMES = {
    "load_sweep": "search.spec.spec_file",
    "run_sweep": "search.sweep",
    "read_front": "search.front.front",
}


def __getattr__(name: str) -> Any:
    # Found late, so that `import paretune` loads nothing.
    if name == "__version__":
        from importlib.metadata import version

        return version("paretune")
    if name in _HOMES:
        return getattr(import_module(_HOMES[name]), name)
    raise AttributeError(f"module 'paretune' has no attribute {name!r}")


def __dir__() -> list[str]:
    return sorted(__all__)
