"""The method and budget that a request asks for, as what is done to the model."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

import torch

from foveate.core.compressor import Compressor
from foveate.core.spec import Spec
from foveate.evaluate.plans import BARE, Loaded, Plan
from foveate.registry import written
from foveate.serve.limits import Refused

Keep = int | float | None
LONGEST = 500  # letters of an error


@dataclass(frozen=True)
class Choice:
    """What the requests to one model may choose.

    usual  what acts where a request says nothing
    saved  the model as it was saved with a compressor; None without one
    check  raises ValueError for a method that is not served
    """

    loaded: Loaded
    usual: Plan
    saved: Plan | None
    check: Callable[[Compressor], None] = lambda method: None

    def plan(self, method: str | None, keep: int | float | str | None) -> Plan:
        """What a request asks for. Raises Refused for what this model cannot do."""
        try:
            given = keep if keep is None else written.budget(str(keep))
        except ValueError as error:
            raise Refused(400, str(error), "keep") from error
        if not method and given is None:
            return self.usual
        try:
            return self._named(method, given) if method else self._kept(given)
        except (ValueError, TypeError, NotImplementedError) as error:
            raise Refused(400, str(error)[:LONGEST], "method" if method else "keep") from error

    def settled(self, method: str) -> bool:
        """Whether there is one budget alone: of weights that know no other, or by what the method is."""
        if self.saved is not None and method == self.saved.method:
            return not self.saved.compressor.elastic
        return self._spec(method).settled

    def _spec(self, text: str) -> Spec:
        """A method as a client writes it."""
        if ":" in text:
            raise ValueError(f"method {text!r}: a request may name methods, and no code")
        return written.spec(text)

    def _kept(self, keep: Keep) -> Plan:
        """What usually acts, at another budget."""
        if self.usual.compressor is None:
            raise ValueError(f"keep={keep} is a method's: say which, such as method='divprune'")
        if self.usual.spec is not None:
            return self._built(self.usual.spec, keep)
        return self._weights(self.usual, {}, keep)

    def _named(self, text: str, keep: Keep) -> Plan:
        spec = self._spec(text)
        if keep is not None and spec.keep is not None:
            raise ValueError(f"keep={keep} beside {text}: give it once")
        keep = spec.keep if keep is None else keep
        if spec.slug == BARE and keep not in (None, 1.0):
            raise ValueError(f"{BARE} keeps all tokens: leave keep={keep} out, or name a method")
        if spec.slug == BARE:
            return Plan(BARE, 1.0)
        if self.saved is not None and spec.slug == self.saved.method:
            return self._weights(self.saved, spec.arguments, keep)
        return self._built(spec, keep)

    def _weights(self, plan: Plan, arguments: Any, keep: Keep) -> Plan:
        """A compressor that was trained, on its own weights."""
        changes = {**arguments} if keep is None else {**arguments, "keep": keep}
        if keep not in (None, plan.keep) and not plan.compressor.elastic:
            own = "one budget" if plan.keep is None else f"keep={plan.keep}"
            raise ValueError(
                f"{plan.method} was trained for {own} alone, not {keep}: leave keep out"
            )
        if not changes:
            return plan
        return plan.at(**changes)

    def _built(self, spec: Spec, keep: Keep) -> Plan:
        """A method without weights, made for the model."""
        model = self.loaded.model
        with torch.device("meta"):
            outline = spec.build(keep, model)
        if any(p.numel() for p in outline.parameters()):
            raise ValueError(
                f"{spec.slug} has weights, and {self.loaded.name} was not trained with it: serve one that was"
            )
        self.check(outline)
        made = spec.build(keep, model)
        return Plan(str(spec), keep, spec, made, self.loaded.how(made))


def key(plan: Plan) -> str:
    """What the requests of one batch have in common: a method with weights is only itself."""
    method = plan.compressor
    weighted = method is not None and any(True for _ in method.parameters())
    return f"{id(method) if weighted else method} {dict(plan.how)}"
