"""Doors for other people's engines: what their entry points load, which is nothing heavy."""

from __future__ import annotations

from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from lmms_eval.models.registry_v2 import ModelManifest


def harness() -> ModelManifest:
    """What lmms-eval lists under the name `foveate`; it imports the classes when somebody asks for them."""
    from lmms_eval.models.registry_v2 import ModelManifest

    return ModelManifest(
        "foveate",
        simple_class_path="foveate.engines.lmms.Simple",
        chat_class_path="foveate.engines.lmms.Foveate",
    )
