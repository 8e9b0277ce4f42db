"""A recipe: everything a run needs, as one frozen card."""

from __future__ import annotations

import dataclasses
import math
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from typing import Any

from foveate.core.compressor import Compressor
from foveate.core.ops import LARGEST, real

# Those of transformers that need no settings of their own.
SCHEDULERS = (
    "linear",
    "cosine",
    "cosine_with_restarts",
    "polynomial",
    "constant",
    "constant_with_warmup",
    "inverse_sqrt",
)
CHOICES = {
    "order": ("shuffled", "grouped", "sequential"),
    "template": ("chat", "plain"),
    "dtype": ("float32", "bfloat16"),
    "positions": ("original", "renumbered"),
    "dropped": ("gone", "merged"),
    "scheduler": SCHEDULERS,
}
SEEDS = 2**32 - 1  # the largest that all of Python, NumPy and torch take
WORKERS = 64  # processes that read data; every one holds a copy of Python
EPOCHS = 10_000
# Whole numbers: the least and the most.
COUNTS = dict.fromkeys(
    (
        *("batch", "micro_batch", "steps", "max_length"),
        *("save_every", "keep_checkpoints", "log_every", "evaluate_every"),
    ),
    (1, LARGEST),
) | {"workers": (0, WORKERS), "seed": (0, SEEDS)}
OPEN = ("steps", "max_length")  # those that may be None
# Other numbers: which of them, and in words.
NUMBERS: dict[str, tuple[Callable[[float], bool], str]] = {
    "weight_decay": (lambda n: n >= 0, "at least 0, and finite"),
    "clip": (lambda n: n >= 0, "at least 0, and finite"),
    "epochs": (lambda n: 0 < n <= EPOCHS, f"more than 0 and at most {EPOCHS:,}"),
    "shrink": (lambda n: 0 < n <= 1, "a share in (0, 1]"),
    "distill": (lambda n: n >= 0, "at least 0, and finite"),
    "full": (lambda n: n >= 0, "at least 0, and finite"),
    "attend": (lambda n: n >= 0, "at least 0, and finite"),
    "warmup": (lambda n: 0 <= n < 1, "a share of the steps in [0, 1)"),
}


@dataclass(frozen=True)
class Lora:
    """Low-rank adapters on every linear layer of the language model. Hu et al. 2021, arXiv:2106.09685."""

    rank: int = 128
    alpha: int = 256
    dropout: float = 0.05


@dataclass(frozen=True)
class Recipe:
    """One training run. Change a recipe with dataclasses.replace; `foveate train --set` does the same.

    name         of the recipe, and of the folder it writes to by default
    model        a folder or Hub id; 'embedded'; with `vision`, the language model alone
    vision       a vision tower to build a new LLaVA with; None loads `model` whole
    data         a LLaVA-format JSON or JSONL file, or the name of a task such as 'patchqa'
    images       the folder that image paths start from
    outside      records may name pictures outside of that folder, by paths or by links that lead there
    skip         records that cannot be trained on are left out, and listed in training.json; a run that goes
                 on leaves out the same ones
    validation   a file of the same form, whose loss is measured every `evaluate_every` steps
    method       a name of METHODS, or a compressor of your own
    arguments    the method's; sizes it asks for (width, layers …) are filled in from the model
    trains       what learns, and its learning rate: the parts vision, projector, language, compressor and
                 lora, or patterns of parameter names such as `*.layers.0.*`. The last entry that fits a
                 parameter counts; what none fits is frozen
    dropped      what becomes of dropped tokens, and proportional: whether a token is looked at as often as it
                 carries patches; as `compress` takes them
    shrink       below 1, projector, language model and what else learns begin at this share of their weights
                 and the rest of fresh ones, so that there is something to learn: shrink and perturb, Ash and
                 Adams 2020, arXiv:1910.08475
    distill      weighs how far the answers are from the same weights' answers with all tokens (KL); 0 for not
                 asking them, which makes a step cost no second forward
    full         weighs the loss of the answers with all tokens beside the compressed one's
    attend       weighs how far a compressor that says where to look is from where the answers look with all
                 tokens, and falls to 0 over training; wants attention="eager"
    warm_start   the compressor begins as what it stands in for, where it can: see foveate.warm_start
    batch        prompts per optimizer step, over all devices
    micro_batch  prompts per device and forward; the rest is gradient accumulation. A penalty, such as one
                 that balances scales, is each forward's own: a small micro-batch asks for balance within its
                 few images, a stricter thing than balance over the batch. What is learnt is their mean,
                 weighted by answer tokens; a forward without images adds none and dilutes it. All else is
                 the same whatever the micro_batch
    steps        optimizer steps; None goes by `epochs`
    warmup       share of the steps
    max_length   columns of a prompt, images included; longer answers are cut
    template     'chat', or 'plain' for LLaVA's pre-training: the image and its caption, no question
    split        every question of a conversation is a row of its own, behind what was said before it: for
                 methods that read what is asked, whose tokens must not know what is asked later
    square       pad images to a square in their mean colour instead of cropping them
    workers      processes that read the data beside each device's own
    order        'grouped' keeps images and text in batches of their own, 'sequential' keeps the file's
    fsdp         shard over several GPUs (FSDP2); one GPU trains whole
    deepspeed    a DeepSpeed config file
    dtype        of the weights as loaded; `bf16` computes in bfloat16 whatever they are
    """

    name: str
    model: str
    data: str
    trains: Mapping[str, float]
    vision: str | None = None
    images: str = "."
    outside: bool = False
    skip: bool = False
    validation: str | None = None
    method: str | Compressor = "identity"
    arguments: Mapping[str, Any] = field(default_factory=dict)
    positions: str = "original"
    dropped: str = "gone"
    proportional: bool = False
    shrink: float = 1.0
    distill: float = 0.0
    full: float = 0.0
    attend: float = 0.0
    warm_start: bool = False
    lora: Lora | None = None
    batch: int = 128
    micro_batch: int = 16
    epochs: float = 1.0
    steps: int | None = None
    scheduler: str = "cosine"
    warmup: float = 0.03
    weight_decay: float = 0.0
    clip: float = 1.0
    max_length: int | None = 2048
    template: str = "chat"
    split: bool = False
    square: bool = False
    order: str = "shuffled"
    check: bool = True
    dtype: str = "float32"
    bf16: bool = False
    checkpointing: bool = False
    attention: str = "sdpa"
    fsdp: bool = False
    deepspeed: str | None = None
    workers: int = 0
    save_every: int = 500
    keep_checkpoints: int = 2
    log_every: int = 1
    evaluate_every: int = 500
    tensorboard: bool = False
    seed: int = 0

    def __post_init__(self):
        self._check_numbers()
        self._check_choices()
        self._check_learning()
        self._check_arguments()

    def _check_numbers(self) -> None:
        for name, (least, most) in COUNTS.items():
            given = getattr(self, name)
            if given is None and name in OPEN:
                continue
            if not isinstance(found := real(given), int):
                raise ValueError(f"{name}={given!r}: want a whole number")
            if most != LARGEST and not least <= found <= most:
                raise ValueError(f"{name}={given}: want a whole number from {least} to {most}")
            if found < least:
                raise ValueError(f"{name}={given}: want at least {least}")
            if found > most:
                raise ValueError(f"{name}={given}: want at most {most}")
            object.__setattr__(self, name, found)
        for name, (fits, wanted) in NUMBERS.items():
            found = real(given := getattr(self, name))
            if found is None or found == math.inf or not fits(found):
                raise ValueError(f"{name}={given!r}: want {wanted}")
            object.__setattr__(self, name, found)

    def _check_choices(self) -> None:
        for name, allowed in CHOICES.items():
            if (given := getattr(self, name)) not in allowed:
                raise ValueError(f"{name}={given!r}: want one of {', '.join(allowed)}")
        if self.attend and self.attention != "eager":
            raise ValueError(
                f"attend={self.attend:g} reads whole attention maps: want attention='eager', not "
                f"{self.attention!r}"
            )
        if self.dtype == "bfloat16" and not self.bf16:
            raise ValueError(
                "weights in bfloat16 without bf16=True, which keeps in float32 what learns: "
                "small updates would round away"
            )

    def _check_learning(self) -> None:
        if not self.trains:
            raise ValueError("trains nothing: want parts and their learning rates")
        if bad := [k for k, rate in self.trains.items() if not _is_rate(rate)]:
            raise ValueError(f"trains {bad[0]} at {self.trains[bad[0]]}: want a learning rate > 0")
        object.__setattr__(self, "trains", _plain(self.trains))
        if self.lora is None and "lora" in self.trains:
            raise ValueError("trains lora, but lora=None: say its rank, or leave it out")
        if self.lora is not None and "lora" not in self.trains:
            raise ValueError(
                f"lora={self.lora} without a learning rate: want one for lora in trains, such as 2e-4"
            )
        if self.lora is not None and (self.fsdp or self.deepspeed):
            raise ValueError(
                "lora with fsdp or deepspeed: adapters train on devices that hold the whole model"
            )
        if self.lora is not None and self.shrink < 1:
            raise ValueError(
                f"shrink={self.shrink} with lora: adapters leave the weights as they are"
            )

    def _check_arguments(self) -> None:
        if isinstance(self.method, Compressor) and self.arguments:
            raise ValueError(
                f"arguments={dict(self.arguments)} beside a compressor that has its own"
            )
        if bad := [name for name, given in self.arguments.items() if not _is_finite(given)]:
            given = self.arguments[bad[0]]
            raise ValueError(f"arguments.{bad[0]}={given!r}: want finite numbers")
        object.__setattr__(self, "arguments", _plain(self.arguments))

    def accumulate(self, world: int = 1) -> int:
        """Forwards per optimizer step on each of `world` devices. Raises ValueError if it is not whole."""
        together = self.micro_batch * world
        if self.batch % together:
            raise ValueError(
                f"batch={self.batch} is no multiple of micro_batch={self.micro_batch} × {world} devices"
            )
        return self.batch // together

    def as_dict(self) -> dict[str, Any]:
        """The recipe as JSON can hold it; a compressor of one's own by its repr."""
        card = dataclasses.asdict(dataclasses.replace(self, method="identity", arguments={}))
        own = isinstance(self.method, Compressor)
        return {
            **card,
            "trains": dict(self.trains),
            "method": repr(self.method) if own else self.method,
            "arguments": dict(self.arguments),
        }


def _is_rate(given: Any) -> bool:
    """Whether something can be a learning rate: a finite number above 0."""
    return (found := real(given)) is not None and 0 < found < math.inf


def _is_finite(given: Any) -> bool:
    """Whether JSON can hold the numbers in an argument."""
    if isinstance(given, Mapping):
        return all(map(_is_finite, given.values()))
    if isinstance(given, list | tuple):
        return all(map(_is_finite, given))
    return not isinstance(found := real(given), float) or math.isfinite(found)


def _plain(given: Mapping[str, Any]) -> dict[str, Any]:
    """The same, with Python's own numbers in place of numpy's."""
    return {name: value if (n := real(value)) is None else n for name, value in given.items()}
