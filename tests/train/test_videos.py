"""Questions about videos: read, shown to the model by its own processor, and refused where it takes none.

What decodes and what samples a video are not everywhere: without them these tests are skipped by name.
"""

from __future__ import annotations

import json

import numpy as np
import pytest
import torch
from families.qwen import Qwen25VL
from processors import QWEN, image, llava, qwen2_5_vl, tokenizer
from transformers import Qwen2_5_VLConfig, Qwen2_5_VLForConditionalGeneration

import foveate
from foveate.chat import prompt
from foveate.evaluate import ask, encode
from foveate.hosts import videos
from foveate.methods import Pool
from foveate.tasks.own import task

SPECIAL = ("im_start", "im_end", "vision_start", "vision_end", "image_pad", "video_pad")
SHOWN = QWEN.replace(
    "{% else %}",
    "{% elif part['type'] == 'video' %}<|vision_start|><|video_pad|><|vision_end|>{% else %}",
    1,
)


@pytest.fixture
def folder(tmp_path):
    (tmp_path / "a.mp4").write_bytes(b"no film")
    image(0, 56, 56).save(tmp_path / "a.png")
    return tmp_path


def asked(folder, **value):
    (folder / "set.json").write_text(json.dumps([{"question": "yes or no ?", **value}]))
    return list(task(str(folder / "set.json")).examples)


def test_a_video_is_one_of_the_pictures(folder):
    (one,) = asked(folder, video="a.mp4")
    (both,) = asked(folder, images=["a.png", "a.mp4"], question="<image> and <image>: yes or no ?")
    assert one.images == (folder / "a.mp4",)
    assert both.images == (folder / "a.png", folder / "a.mp4")
    words = qwen2_5_vl()
    words.chat_template = SHOWN
    text = prompt(words, both.told, ["image", "video"])
    assert text.index("<|image_pad|>") < text.index("and ") < text.index("<|video_pad|>")
    assert "<|image_pad|>" not in prompt(words, one.told, ["video"])


def test_a_model_without_videos_refuses_them(folder):
    with pytest.raises(ValueError, match=r"a\.mp4: the processor of this model takes no videos"):
        encode(llava(), [ask(one) for one in asked(folder, video="a.mp4")])


def watching():
    """A processor of pictures and videos, and a small model of its tokens."""
    pytest.importorskip("torchvision")
    from transformers import Qwen2_5_VLProcessor, Qwen2VLImageProcessorPil, Qwen2VLVideoProcessor

    words = tokenizer(*(f"<|{name}|>" for name in SPECIAL), eos="<|im_end|>")
    sizes = {"shortest_edge": 28 * 28, "longest_edge": 4 * 28 * 28}
    patches = {"patch_size": 4, "size": sizes}
    processor = Qwen2_5_VLProcessor(
        Qwen2VLImageProcessorPil(**patches),
        words,
        Qwen2VLVideoProcessor(**patches, num_frames=4, fps=None),
        chat_template=SHOWN,
    )
    config = Qwen25VL().config().to_dict()
    ids = dict(
        zip(SPECIAL, words.convert_tokens_to_ids([f"<|{s}|>" for s in SPECIAL]), strict=True)
    )
    config |= {f"{name}_token_id": ids[f"{name}_pad"] for name in ("image", "video")}
    config |= {f"vision_{end}_token_id": ids[f"vision_{end}"] for end in ("start", "end")}
    config["text_config"]["vocab_size"] = len(words)
    torch.manual_seed(0)
    return processor, Qwen2_5_VLForConditionalGeneration(Qwen2_5_VLConfig(**config)).eval()


def film(path, frames=30):
    """Frames that grow brighter."""
    cv2 = pytest.importorskip("cv2")
    out = cv2.VideoWriter(str(path), cv2.VideoWriter_fourcc(*"mp4v"), 10, (64, 48))
    for n in range(frames):
        out.write(np.full((48, 64, 3), 8 * n, np.uint8))
    out.release()


def test_its_frames_are_those_the_processor_asks_for(folder):
    processor, _ = watching()
    film(folder / "a.mp4")
    found = videos.videos(processor, [str(folder / "a.mp4")])
    (frames,), (told,) = found["videos"], found["video_metadata"]
    assert list(told.frames_indices) == [0, 7, 15, 22]
    assert np.allclose(frames.mean((1, 2, 3)), 8 * np.array([0, 7, 15, 22]), atol=3)
    processor.video_processor.num_frames = None
    (every,) = videos.videos(processor, [str(folder / "a.mp4")])["videos"]
    assert len(every) == 30  # no more than FRAMES


def test_a_question_about_a_video_and_a_picture(folder):
    processor, model = watching()
    film(folder / "a.mp4")
    asks = [ask(one) for one in asked(folder, images=["a.png", "a.mp4"])]
    batch, words = encode(processor, [*asks, ([folder / "a.png"], "a red dog ?")])
    assert len(batch["image_grid_thw"]) == 2 and batch["video_grid_thw"][:, 0].tolist() == [2]
    told = processor.tokenizer.batch_decode(
        [i[m] for i, m in zip(batch.input_ids, words, strict=True)]
    )
    assert told == ["yes or no ?", "a red dog ?"]
    foveate.compress(model, Pool(stride=2))
    with foveate.trace(model) as seen:
        model(**batch)
    merged = [*batch["image_grid_thw"].prod(1) // 4, *batch["video_grid_thw"].prod(1) // 4]
    (step,) = seen.steps
    assert step.before.tolist() == torch.stack(merged).tolist()
    assert (step.after < step.before).all()


def test_what_is_no_film_is_said(folder):
    processor, _ = watching()
    pytest.importorskip("cv2")
    with pytest.raises(ValueError, match=r"a\.mp4 cannot be read as a video"):
        videos.videos(processor, [str(folder / "a.mp4")])
