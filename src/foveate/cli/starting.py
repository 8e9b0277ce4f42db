"""A quick start: torch and transformers are loaded without a search for garbage among what stays."""

from __future__ import annotations

import gc
import sys
from importlib import import_module


def load(name: str) -> None:
    """Import a module and all it needs; what is there now is never searched for garbage again.

    Python would look through these millions of objects while they come, and once more when it ends: a third
    of the processor time of a short command. Of a module that is there already nothing happens.
    """
    if name in sys.modules:
        return
    gc.disable()
    try:
        import_module(name)
    finally:
        gc.freeze()
        gc.enable()
