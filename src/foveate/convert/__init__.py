"""Checkpoints of other code, into models that transformers and foveate load.

checkpoint  a LLaVA-STF as LLaVA's code saves it: where its parts come from, and how it is saved
config      what LLaVA's config.json says, as configs of transformers
connector   which compressor a connector's weights are
files       weights by name, and settings, from disk
weights     modules that get their weights by other names
"""

from foveate.convert.checkpoint import convert_llava_stf

__all__ = ["convert_llava_stf"]
