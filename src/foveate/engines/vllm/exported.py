"""A compressed checkpoint for vLLM, which without foveate refuses it and does not answer from all tokens."""

from __future__ import annotations

import json
import shutil
import tempfile
from pathlib import Path
from typing import Any

from foveate.engines.vllm import ARCHITECTURE, served
from foveate.engines.vllm.command import PLACES
from foveate.hosts import reading

CONFIG = "config.json"


def export(source: str | Path, out: str | Path) -> dict[str, Any]:
    """Copy a folder that holds a compressed model, and let its config.json name foveate's class of vLLM.

    What was saved with positions="original" is told to keep them. `foveate.from_pretrained(out)` loads it as
    before. Returns what changed of config.json. Raises ValueError for a model without a method, one whose
    method vLLM cannot serve, and an `out` that is there already.
    """
    source, out = Path(source), Path(out)
    if out.exists():
        raise ValueError(f"{out} is there already: want a new folder")
    config = reading.config(str(source))
    if not source.is_dir() or served.of_checkpoint(config) is None:
        raise ValueError(
            f"{source}: want a folder with a model that was saved compressed; vLLM compresses any other with "
            '--mm-processor-kwargs \'{"foveate": "divprune(keep=36)"}\''
        )
    changes: dict[str, Any] = {"architectures": [ARCHITECTURE]}
    if served.positions(config, {}) == "original" and not served.counts_in_three(config):
        changes |= PLACES
    out.parent.mkdir(parents=True, exist_ok=True)
    with tempfile.TemporaryDirectory(dir=out.parent, prefix=f"{out.name}.") as beside:
        made = Path(shutil.copytree(source, Path(beside) / "model"))
        told = json.loads((made / CONFIG).read_text()) | changes
        (made / CONFIG).write_text(json.dumps(told, indent=2) + "\n")
        made.replace(out)
    return changes
