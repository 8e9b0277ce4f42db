"""Checkpoints of other code, into models that transformers and foveate load.

checkpoint  a LLaVA-STF as LLaVA's code saves it: where its parts come from, and how it is saved
connector   which compressor a connector's weights are
weights     files of weights, and modules that get theirs by other names
"""

from foveate.convert.checkpoint import convert_llava_stf

__all__ = ["convert_llava_stf"]
