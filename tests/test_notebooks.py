"""The notebooks run, and show what comes of them."""

import re
from pathlib import Path

import nbformat
import pytest
from nbclient import NotebookClient

NOTEBOOKS = sorted((Path(__file__).parents[1] / "notebooks").glob("*.ipynb"))
ASKED = "limit=110"  # questions of each comparison, as saved
pytestmark = pytest.mark.parametrize("path", NOTEBOOKS, ids=lambda path: path.stem)


def said(cell) -> str:
    """What a cell printed; warnings of the machine aside."""
    return "".join(out.text for out in cell.outputs if out.get("name") == "stdout")


def pictures(cell) -> int:
    return sum("image/png" in out.get("data", {}) for out in cell.outputs)


def ran(path: Path, limit: str, monkeypatch) -> list[tuple]:
    """Each cell of code as it was saved, and as it came out now."""
    monkeypatch.setenv("HF_HUB_OFFLINE", "1")
    saved, now = (nbformat.read(path, as_version=4) for _ in range(2))
    for cell in now.cells:
        cell.source = cell.source.replace(ASKED, limit)
    NotebookClient(now, timeout=600, resources={"metadata": {"path": str(path.parent)}}).execute()
    pairs = zip(saved.cells, now.cells, strict=True)
    return [(old, new) for old, new in pairs if old.cell_type == "code"]


# The client's loop and sockets are its own affair.
@pytest.mark.filterwarnings("default")
@pytest.mark.slow
def test_it_runs_and_says_the_same(path, monkeypatch):
    """But for the comparisons, which ask fewer questions here."""
    for old, new in ran(path, "limit=11", monkeypatch):
        assert pictures(old) == pictures(new)
        if ASKED not in old.source:
            assert said(old) == said(new), old.source


@pytest.mark.filterwarnings("default")
@pytest.mark.full
def test_its_numbers_are_those_it_shows(path, monkeypatch):
    """To a question of the smallest group, ten: another kernel may choose another of two likely answers."""
    for old, new in ran(path, ASKED, monkeypatch):
        shares = [re.findall(r"([\d.]+)%", said(cell)) for cell in (old, new)]
        assert len(shares[0]) == len(shares[1])
        for one, other in zip(*shares, strict=True):
            assert abs(float(one) - float(other)) <= 10.1


def test_it_is_saved_with_its_outputs_and_small(path):
    cells = [c for c in nbformat.read(path, as_version=4).cells if c.cell_type == "code"]
    assert [cell.execution_count for cell in cells] == [*range(1, len(cells) + 1)]
    assert any(map(pictures, cells)) and sum(map(bool, map(said, cells))) >= 3
    assert not any(out.output_type == "error" for cell in cells for out in cell.outputs)
    assert path.stat().st_size < 400_000
