"""What acts: a compressor is a function from visual tokens to fewer visual tokens, at one site."""

from __future__ import annotations

import inspect
from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from enum import IntEnum
from itertools import groupby
from typing import Any, NamedTuple, Self

import torch
from torch import Tensor, nn

from foveate.core.ops import budget, real, whole
from foveate.core.sizes import sized
from foveate.core.tokens import VisualTokens


class Tower(IntEnum):
    """The parts of a multimodal model a visual token passes, in order of flow."""

    vision = 0
    features = 1
    projector = 2
    language = 3


class Site(NamedTuple):
    """Where a compressor stands. Sites order by flow.

    (vision, l)    before block l of the vision tower: there a row is a view, such as a tile or a frame
    (features,)    on the selected output of the tower, before the projector
    (projector,)   in the projector's place
    (language, 0)  after the projector, before the language model
    (language, K)  before decoder layer K: HF's 0-based index; layers 0 … K-1 saw every token
    """

    tower: Tower
    layer: int = 0

    def __str__(self) -> str:
        layered = self.tower in (Tower.vision, Tower.language)
        return f"{Tower(self.tower).name} {self.layer}" if layered else Tower(self.tower).name

    @property
    def words(self) -> str:
        """Where that is, as people say it: "before decoder layer 2"."""
        if self.tower == Tower.language:
            return (
                f"before decoder layer {self.layer}" if self.layer else "before the language model"
            )
        if self.tower == Tower.vision:
            return f"before block {self.layer} of the vision tower"
        return (
            "before the projector" if self.tower == Tower.features else "in the projector's place"
        )


def spans(sites: Iterable[Site]) -> list[str]:
    """Sites in words, those at three and more layers in a row as one: "vision 1 to 22"."""
    said: list[str] = []
    for _, run in groupby(enumerate(sites), lambda at: (at[1].tower, at[1].layer - at[0])):
        first, *others = (site for _, site in run)
        in_a_row = len(others) > 1
        said += [f"{first} to {others[-1].layer}"] if in_a_row else map(str, (first, *others))
    return said


def language(layer: int) -> Site:
    """The site before decoder layer `layer`; 0 is after the projector. Raises ValueError below 0."""
    return Site(Tower.language, whole("layer", layer, least=0))


def check_site(part: Compressor) -> None:
    """Raise TypeError unless a compressor says where it acts, as a Site."""
    site = part.site
    known = isinstance(site, Site) and isinstance(site.tower, Tower)
    if not known or not isinstance(layer := real(site.layer), int) or layer < 0:
        raise TypeError(
            f"{type(part).__name__}.site is {site!r}: want a Site, such as Site(Tower.language, 2) before "
            "decoder layer 2"
        )


@dataclass(frozen=True)
class Context:
    """What a compressor may look at besides the tokens. Only the fields it `needs` are filled in.

    text, text_mask     (B, T, D_llm), (B, T)  input embeddings of the instruction's tokens alone, in order,
                        never of an answer; shorter ones are padded at the end, T may be 0
    text_ids            (B, T)  the same tokens by their numbers in the model's vocabulary
    cls_attention       (B, N)  head-mean probability that the class token gives each token
    last_attention      (B, N)  what the last prompt row looks at in layer K-1, head-mean probability
    own_attention       (B, N)  the same in layer K itself, looked up before it runs
    prompt_attention    (B, N)  the mean of last_attention over the instruction's rows, or over those of its
                        `raters`
    previous            (B, N, D)  the tokens as they entered layer K-1
    normed              (B, N, D)  the tokens through the language model's last norm
    key_size            (B, N)  L1 norm of each token's key in layer K-1, heads joined, rotated
    words               the instruction's words behind the image, in order: {"normed": (B, T, D),
                        "key_size": (B, T), "mask": (B, T)}, as above; shorter ones padded at the end
    keys                (B, N, d)  head-mean keys of the block that gives cls_attention; at (vision, l), where
                        nothing else is shown, of block l-1
    attentions          {i: (B, N)}  as cls_attention, in each block i of the tower that it reads
    received            {i: (B, N)}  the head-mean probability that each token gets there, mean over all rows
    features            {i: (B, N, D)}  the tower's hidden states i that it reads, class token removed
    grid                (B, P, 3)  view, row and column of each patch; −1 for padding
    overview            (B, P)  True at the patches of the view that shows the whole image beside its tiles;
                        nowhere in an image of one view, in a video, or in padding
    generator           one torch.Generator per row, seeded alike at inference
    """

    text: Tensor | None = None
    text_mask: Tensor | None = None
    text_ids: Tensor | None = None
    cls_attention: Tensor | None = None
    last_attention: Tensor | None = None
    own_attention: Tensor | None = None
    prompt_attention: Tensor | None = None
    previous: Tensor | None = None
    normed: Tensor | None = None
    key_size: Tensor | None = None
    words: Mapping[str, Tensor] | None = None
    keys: Tensor | None = None
    attentions: Mapping[int, Tensor] | None = None
    received: Mapping[int, Tensor] | None = None
    features: Mapping[int, Tensor] | None = None
    grid: Tensor | None = None
    overview: Tensor | None = None
    generator: tuple[torch.Generator, ...] | None = None


OF_BLOCKS = frozenset({"attentions", "received"})  # the fields of Compressor.vision_blocks


class Compressor(nn.Module):
    """Turns visual tokens into fewer visual tokens at one site. Abstract: methods are final subclasses.

    site           where it acts
    needs          the Context fields it reads; only these are computed
    optional       of text, text_ids and text_mask, what it can do without: a prompt without an instruction
                   then gives a row of text_mask that is all False, instead of an error
    vision_layers  of features, the tower's hidden states that it reads, by index
    vision_blocks  of attentions and received, the tower's blocks that it reads; -1 is the last
    selects        True if keeping everything is the identity
    behind         what stands behind the projector instead of it, as people write it, for methods before it
    seed           of the generators it is given
    elastic        True if the same weights serve any `keep`: training drew the budgets
    looks          the module, called with (tokens, context), that says which share of an image's look each
                   token gets, (B, N): training may teach it where the model itself looks
    renumbered     whether its authors count positions anew; None if, as most, they do before the language
                   model and do not inside
    call           how people made it, where a factory did: focusllava(keep=0.5)
    """

    site: Site = Site(Tower.language, 0)
    needs: frozenset[str] = frozenset()
    optional: frozenset[str] = frozenset()
    vision_layers: tuple[int, ...] = ()
    vision_blocks: tuple[int, ...] = ()
    selects: bool = False
    behind: str | None = None
    seed: int = 0
    elastic: bool = False
    looks: nn.Module | None = None
    renumbered: bool | None = None
    call: str | None = None

    @classmethod
    def for_model(cls, model: Any, **arguments: Any) -> Self:
        """One with the sizes that this model, or config, has: see `foveate.sized`."""
        return sized(cls, model, **arguments)

    def forward(self, tokens: VisualTokens, context: Context) -> VisualTokens:
        """Fewer tokens. tokens.x (B, N, D) → (B, M, D)."""
        raise NotImplementedError

    def scores(self, tokens: VisualTokens, context: Context) -> Tensor | None:
        """(B, N) how it rates the tokens, for traces and pictures: the attention it reads, unless told."""
        inside = (context.last_attention, context.own_attention, context.prompt_attention)
        return next((a for a in (context.cls_attention, *inside) if a is not None), None)

    def raters(self, tokens: VisualTokens, context: Context) -> Tensor | None:
        """(B, T) True at the words whose rows make up prompt_attention; None for the whole instruction.

        Asked once, as the tokens enter the language model. context.text (B, T, D) and text_mask (B, T) are
        then the instruction's words that stand behind each image, padded at the end.
        """
        return None

    def arguments(self) -> dict[str, Any]:
        """The constructor's arguments that rebuild this compressor; JSON-ready."""
        raise NotImplementedError

    def but(self, **changes: Any) -> Compressor:
        """A copy with the same weights and other arguments: `compress(model, trained.but(keep=16))`.

        Of a chain, the one part that has an argument takes it. Raises TypeError for arguments that no part
        has, or several, ValueError where the weights do not fit.
        """
        own = self.arguments()
        if wrong := [name for name in changes if name not in own]:
            raise TypeError(
                f"{type(self).__name__} has no argument {wrong[0]!r}: there are {', '.join(own)}"
            )
        made = type(self)(**{**own, **changes})
        try:
            made.load_state_dict(self.state_dict())
        except RuntimeError as error:
            given = ", ".join(f"{name}={value!r}" for name, value in changes.items())
            raise ValueError(f"{given}: these weights are of another shape") from error
        weight = next(self.parameters(), None)
        made = made if weight is None else made.to(weight.device, weight.dtype)
        return self._called(made, changes).train(self.training)

    def _called(self, made: Compressor, changes: Mapping[str, Any]) -> Compressor:
        said = ", ".join(f"{name}={value!r}" for name, value in changes.items())
        made.call = None if self.call is None else f"{self.call}.but({said})"
        return made

    def warm_start(self, projector: nn.Module) -> None:
        """Begin as what it stands in for, given the model's projector. Raises ValueError if it cannot."""
        raise ValueError(f"{type(self).__name__} has no warm start")

    def parts(self) -> list[Compressor]:
        """The compressors that act, in flow order: itself, or the links of a chain."""
        return [self]

    def every(self) -> list[Compressor]:
        """All parts that may ever act, over every stage of a schedule."""
        return self.parts()

    def at(self, progress: float) -> Compressor:
        """What acts at this point of training, 0 to 1; 1.0 is inference."""
        return self

    def count(self, grid: Tensor) -> int | None:
        """How many tokens it leaves of an image, said before the image is seen.

        grid (P, 3) view, row and column of each patch. None where the picture or the prompt decides, and for
        what acts inside the language model, where every layer may see another number.
        """
        left: int | None = len(grid)
        for part in self.at(1.0).parts():
            inside = part.site > Site(Tower.language)
            left = None if inside or left is None else part.left(left, grid)
        return left

    def left(self, count: int, grid: Tensor) -> int | None:
        """How many of `count` tokens this part leaves of an image; None where only the image says.

        As many as `keep` says, unless told: a method that keeps another number must say so here. grid (P, 3)
        of all patches, which still are the tokens where there are as many.
        """
        if self.keeps_all:
            return count
        keep = self.arguments().get("keep")
        return None if keep is None else int(budget(keep, torch.tensor(count)))

    @property
    def keeps_all(self) -> bool:
        """Whether it is the identity whatever it is given: it selects, and its budget is everything."""
        keep = self.arguments().get("keep")
        return self.selects and isinstance(keep, float) and keep == 1

    @property
    def scheduled(self) -> bool:
        """Whether `at` depends on progress, so that training must say how far it is."""
        return False

    def __str__(self) -> str:
        """In one line, as people write it; of a factory's, the call."""
        return self.call or f"{type(self).__name__}({self.extra_repr()})"

    def extra_repr(self) -> str:
        """The arguments, so that repr(compressor) is the record of a run; without those that are unset."""
        if type(self).arguments is Compressor.arguments:
            return ""
        own = inspect.signature(type(self)).parameters
        unset = {name for name in own if own[name].default is None}
        given = self.arguments().items()
        return ", ".join(f"{k}={v!r}" for k, v in given if not (v is None and k in unset))
