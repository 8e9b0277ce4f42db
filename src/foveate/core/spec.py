"""A method as people write it: fastv, or with arguments of its own, pool(stride=8, layer=2)."""

from __future__ import annotations

import functools
import inspect
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass, field, replace
from typing import TYPE_CHECKING, Any, TypeVar

import torch

from foveate.core.ops import real
from foveate.core.sizes import SIZES, sized

if TYPE_CHECKING:
    from foveate.core.compressor import Compressor
    from foveate.core.ops import Keep

Factory = TypeVar("Factory", bound="Callable[..., Compressor]")
PROBES = (1.0, 0.5, 0.25, 0.125, 64)


@dataclass(frozen=True)
class Spec:
    """A method by its name, with arguments of its own.

    slug       the name
    make       its factory, an entry of METHODS
    arguments  those that were given, but for the budget
    keep       the budget, where it was written among them
    switches   what else `foveate.compress` is told, where a file says it
    chosen     the model that a file was made for, its name and the fingerprint of its weights
    saved      whether it acts on the weights that the model was saved with
    """

    slug: str
    make: Callable[..., Compressor]
    arguments: Mapping[str, Any] = field(default_factory=dict)
    keep: Keep | None = None
    switches: Mapping[str, Any] = field(default_factory=dict)
    chosen: tuple[str, str] | None = None
    saved: bool = False

    def __str__(self) -> str:
        """As people write it, without the budget: that stands beside it wherever it matters."""
        given = ", ".join(f"{name}={_written(value)}" for name, value in self.arguments.items())
        return f"{self.slug}({given})" if given else self.slug

    @property
    def whole(self) -> str:
        """As people write it, with its budget: divprune(keep=36)."""
        keep = {} if self.keep is None else {"keep": self.keep}
        return str(replace(self, arguments={**self.arguments, **keep}))

    def build(self, keep: Keep | None = None, model: Any = None) -> Compressor:
        """The compressor at a budget, its own unless told, with the sizes of this model or config.

        Without a model the sizes are the factory's defaults. Raises as the factory and `sized` do.
        """
        keep = self.keep if keep is None else keep
        given = {**self.arguments} if keep is None else {**self.arguments, "keep": keep}
        return self.make(**given) if model is None else sized(self.make, model, **given)

    def tried(self, keep: Keep | None = None) -> Compressor:
        """As `build` makes it without a model, on no memory. Raises ValueError also for impossible sizes."""
        with torch.device("meta"):
            try:
                return self.build(keep)
            except RuntimeError as error:
                raise ValueError("sizes that no tensor has") from error

    def budgets(self, asked: Iterable[Keep]) -> list[Keep | None]:
        """The budgets to build it at: its own; [None] where its arguments say it; else those asked for."""
        if self.keep is not None or self.settled:
            return [self.keep]
        return list(asked)

    @property
    def settled(self) -> bool:
        """Whether its arguments say what it keeps: beside them no two budgets mean anything.

        pool(stride=8) takes none, a schedule that of its last stage alone.
        """
        keep = inspect.signature(self.make).parameters.get("keep")
        return keep is None or (keep.default is None and sum(map(self._takes, PROBES)) < 2)

    def _takes(self, keep: Keep) -> bool:
        try:
            self.tried(keep)
        except ValueError:
            return False
        return True


def spoken(make: Factory) -> Factory:
    """A factory whose compressors know the call that made them: `str` of one is focusllava(keep=0.5).

    Sizes of a model, which `sized` fills in, are left out.
    """

    @functools.wraps(make)
    def called(*args: Any, **kwargs: Any) -> Compressor:
        made = make(*args, **kwargs)
        given = inspect.signature(make).bind(*args, **kwargs).arguments
        said = ", ".join(f"{n}={_python(v)}" for n, v in given.items() if n not in SIZES)
        made.call = f"{make.__name__}({said})"
        return made

    return called


def _python(value: Any) -> str:
    return repr(value if (number := real(value)) is None else number)


Choice = tuple[Spec, "Keep | None"]
Skipped = dict[str, Any]  # method, keep, why


def crossed(specs: Iterable[Spec], keeps: Sequence[Keep]) -> tuple[list[Choice], list[Skipped]]:
    """Every method at every budget it has, each once, and why not at the others."""
    found: dict[tuple[str, str], Choice] = {}
    skipped = []
    for spec in specs:
        for keep in spec.budgets(keeps):
            try:
                spec.tried(keep)
            except ValueError as error:
                skipped.append({"method": str(spec), "keep": keep, "why": str(error)})
            else:
                found.setdefault((str(spec), repr(keep)), (spec, keep))  # 1 is not 1.0
    return list(found.values()), skipped


def named(method: str, keep: Keep | None) -> str:
    """A method and its budget in words: "fastv at 64"; without one, the method alone."""
    return method if keep is None else f"{method} at {keep}"


def _written(value: Any) -> str:
    return str(value).lower() if isinstance(value, bool) else str(value)
