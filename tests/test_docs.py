"""What the documentation shows works as it is shown."""

import re
from pathlib import Path

import torch

from search.spec.preflight import preflight
from search.spec.spec_file import load_sweep
from trainables.models import build_model

DOCS = Path(__file__).parent.parent / "docs"
ROOT = DOCS.parent


def blocks(page: Path, language: str) -> list[str]:
    return re.findall(rf"```{language}\n(.*?)```", page.read_text(encoding="utf-8"), re.DOTALL)


def test_the_model_factory_of_the_docs_is_taken(tmp_path, monkeypatch):
    code = next(block for block in blocks(DOCS / "your-own.md", "python") if "def build" in block)
    (tmp_path / "nets.py").write_text(code)
    sweep = next(block for block in blocks(DOCS / "your-own.md", "yaml") if "factory" in block)
    file = tmp_path / "sweep.yaml"
    file.write_text("name: own\ndata: {name: digits}\n" + sweep)
    spec = load_sweep(file)
    preflight(spec)
    monkeypatch.syspath_prepend(tmp_path)
    model = build_model(
        "nets:build", {"blocks": 3, "width": 8}, in_channels=1, image_size=8, classes=10, seed=0
    )
    assert model(torch.zeros(2, 1, 8, 8)).shape == (2, 10)


def test_links_lead_to_files():
    for page in (ROOT / "README.md", *DOCS.glob("*.md")):
        for target in re.findall(r"\]\(([^)#]+)[^)]*\)", page.read_text(encoding="utf-8")):
            if "://" not in target:
                assert (page.parent / target).exists(), f"{page.name}: {target}"
