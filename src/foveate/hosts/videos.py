"""Videos as a model's own processor samples them, by whichever decoder is installed."""

from __future__ import annotations

from collections.abc import Sequence
from functools import partial
from importlib.util import find_spec
from typing import Any

import numpy as np
from transformers.video_utils import load_video

DECODERS = {"torchcodec": "torchcodec", "av": "pyav", "decord": "decord", "cv2": "opencv"}
FRAMES = 32  # at even steps, where a processor does not say how many it wants


def videos(processor: Any, paths: Sequence[str]) -> dict[str, Any]:
    """What a call of the processor takes of these videos, in order; nothing of none.

    Its video processor says which frames (`num_frames` or `fps`); no others are held. Raises ValueError where
    it takes no videos, nothing here can decode one, or one cannot be read.
    """
    if not paths:
        return {}
    samples = getattr(processor, "video_processor", None)
    if samples is None:
        raise ValueError(
            f'{paths[0]}: the processor of this model takes no videos; give frames as pictures, "images": '
            '["1.png", "2.png"]'
        )
    decoder = next((name for package, name in DECODERS.items() if find_spec(package)), None)
    if decoder is None:
        raise ValueError(f"{paths[0]}: nothing here decodes videos; pip install av")
    seen = [_frames(path, decoder, samples) for path in paths]
    frames, told = zip(*seen, strict=True)
    return {"videos": [*frames], "video_metadata": [*told], "do_sample_frames": False}


def _frames(path: str, decoder: str, samples: Any) -> tuple[np.ndarray, Any]:
    """The frames that a video processor wants, (frames, height, width, 3), and which they are."""
    how = {name: getattr(samples, name, None) for name in samples.valid_kwargs.__annotations__}
    if how.get("num_frames") is None and how.get("fps") is None:
        which = partial(_evenly, FRAMES)
    else:
        which = partial(samples.sample_frames, **how)
    try:
        return load_video(path, backend=decoder, sample_indices_fn=which)
    except Exception as error:  # broken files make decoders raise nearly anything
        raise ValueError(f"{path} cannot be read as a video: {error}") from error


def _evenly(most: int, metadata: Any, **_: Any) -> np.ndarray:
    total = metadata.total_num_frames
    return np.linspace(0, total - 1, min(most, total)).round().astype(int)
