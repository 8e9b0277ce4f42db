"""Real engines, each in a process of its own; foveate alone answers here what they are compared with."""

from __future__ import annotations

import sys
from pathlib import Path

ROOT = Path(__file__).parents[1]
sys.path[:0] = [str(ROOT), str(ROOT / "tests"), str(ROOT / "tests" / "train")]


def pytest_configure(config):
    """What vLLM warns of is no error of ours, nor that its transformers is one foveate does not name."""
    config.addinivalue_line("filterwarnings", "default")
