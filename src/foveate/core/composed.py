"""Compressors of compressors: a chain down the model, and a schedule over training."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

from torch import nn

from foveate.core.compressor import Compressor, check_site
from foveate.core.ops import real


class Chain(Compressor):
    """Several compressors at one or several sites, in flow order; equal sites keep the given order.

    Raises ValueError without links or if the sites run against the flow, TypeError for no compressors.
    """

    def __init__(self, *links: Compressor):
        super().__init__()
        _want_compressors("a chain", links)
        parts = [part for link in links for part in link.parts()]
        for part in parts:
            check_site(part)
        sites = [part.site for part in parts]
        if sites != sorted(sites):
            raise ValueError(f"a chain runs down the model, got {', '.join(map(str, sites))}")
        if any(link.scheduled for link in links):
            raise ValueError("a chain cannot hold a schedule; put chains into the stages instead")
        self.links = nn.ModuleList(parts)
        self.selects = all(part.selects for part in parts)

    def parts(self) -> list[Compressor]:
        """The links."""
        return list(self.links)

    def but(self, **changes: Any) -> Chain:
        """As of one compressor; each argument goes to the link that has it."""
        owners = {
            name: [link for link in self.links if name in link.arguments()] for name in changes
        }
        for name, found in owners.items():
            if len(found) != 1:
                has = "none of them has it" if not found else f"{len(found)} of them have it"
                links = ", ".join(type(link).__name__ for link in self.links)
                raise TypeError(f"{name}={changes[name]!r} for a chain of {links}: {has}")
        own = [{n: changes[n] for n in changes if link in owners[n]} for link in self.links]
        links = zip(self.links, own, strict=True)
        made = Chain(*(link.but(**change) for link, change in links))
        return self._called(made, changes).train(self.training)

    def __str__(self) -> str:
        """The links, in one line; of a factory's, the call."""
        return self.call or " + ".join(map(str, self.links))

    def arguments(self) -> dict[str, Any]:
        """None of its own: the links hold theirs."""
        return {}


class Stages(Compressor):
    """A schedule over training: each compressor acts until its share of training is over.

    Stages((0.5, Pool(stride=8, layer=2)), (1.0, Identity())). Raises ValueError unless the shares rise to 1.
    """

    def __init__(self, *stages: tuple[float, Compressor]):
        super().__init__()
        for stage in stages:
            if not (isinstance(stage, tuple) and len(stage) == 2 and real(stage[0]) is not None):
                raise TypeError(f"a schedule wants stages (end, compressor), got {stage!r}")
        if stages:
            _want_compressors("a schedule", [stage for _, stage in stages])
        self.until = [float(until) for until, _ in stages]
        rising = all(a < b for a, b in zip([0.0, *self.until], self.until, strict=False))
        if not stages or not rising or self.until[-1] != 1.0:
            raise ValueError(f"stages must end at rising shares up to 1.0, got {self.until}")
        self.stages = nn.ModuleList(stage for _, stage in stages)
        self.selects = all(stage.selects for stage in self.stages)

    def at(self, progress: float) -> Compressor:
        """The stage that training at `progress` is in."""
        running = (s for until, s in zip(self.until, self.stages, strict=True) if progress < until)
        return next(running, self.stages[-1]).at(progress)

    def parts(self) -> list[Compressor]:
        """What acts at inference."""
        return self.at(1.0).parts()

    def every(self) -> list[Compressor]:
        """The parts of all stages, each once."""
        return list({id(part): part for stage in self.stages for part in stage.every()}.values())

    def but(self, **changes: Any) -> Stages:
        """Never: each stage has arguments of its own. Raises TypeError."""
        raise TypeError(f"{', '.join(changes)}: a schedule's stages have arguments of their own")

    @property
    def scheduled(self) -> bool:
        """Always: that is what it is for."""
        return True

    def __str__(self) -> str:
        """The stages, in one line; of a factory's, the call."""
        stages = zip(self.until, self.stages, strict=True)
        return self.call or f"Stages({', '.join(f'({end}, {stage})' for end, stage in stages)})"

    def arguments(self) -> dict[str, Any]:
        """The ends of the stages; the stages hold their own."""
        return {"until": self.until}


def _want_compressors(name: str, given: Sequence[Any]) -> None:
    if not given:
        raise ValueError(f"{name} of nothing: want at least one compressor")
    for value in given:
        if not isinstance(value, Compressor):
            raise TypeError(f"{name} wants compressors, got {value!r}")
