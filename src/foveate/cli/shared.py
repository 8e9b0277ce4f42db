"""Options that commands share, written once: which model is asked, what, and how."""

from __future__ import annotations

import inspect
from collections.abc import Callable
from dataclasses import MISSING, dataclass, fields
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any, get_type_hints

import typer

from foveate.cli import models, values
from foveate.cli import questions as asking
from foveate.cli.ask import AsJson, Attention, Device, Dropped, Model, New, Protocol
from foveate.cli.opening import Opened, opened
from foveate.cli.work import work

if TYPE_CHECKING:
    from foveate.evaluate.work import Work
    from foveate.tasks.own import Own, Task

Seed = Annotated[
    int, typer.Option(min=0, max=values.SEEDS, help="Of the task: other seeds, other scenes.")
]
Batch = Annotated[
    int, typer.Option(min=1, max=values.MOST_PROMPTS, help="Questions answered at once.")
]


@dataclass(frozen=True)
class Asking:
    """A model, a task, and how its questions are asked."""

    model: Model = models.EMBEDDED
    task: asking.Asked = "patchqa"
    seed: Seed = 0
    batch_size: Batch = 32
    max_new_tokens: New = 8
    device: Device = "auto"
    protocol: Protocol = None
    dropped: Dropped = None
    attention: Attention = None
    columns: asking.Columns = None
    images: asking.Images = None
    outside: asking.Outside = False
    skip: asking.Skip = False
    json: AsJson = False

    def check(self, metric: str) -> Own:
        """How the questions are read and scored. Raises Wrong for what can be told before any work."""
        asking.named(self.task)
        models.check_protocol(self.protocol)
        return asking.own(metric, self.columns, self.images, self.outside, self.skip)

    def questions(self, limit: int | None, usual: int, own: Own) -> Task:
        """The questions, checked, as `questions.taken` does."""
        return asking.taken(self.task, limit, usual, self.seed, own)

    def opened(self, spec: Any = None, *changes: Any, **more: Any) -> Opened:
        """The model, as `opening.opened` opens it."""
        switches = models.switches(dropped=self.dropped, attention=self.attention)
        return opened(
            self.model, self.device, self.protocol, spec, *changes, switches=switches, **more
        )

    def work(self, start: Opened, questions: Task, out: Path | None, timing: bool = False) -> Work:
        """The questions put to the model."""
        how = (self.seed, self.batch_size, self.max_new_tokens, timing, out)
        return work(start.loaded, questions, *how)


def sharing(command: Callable[..., None]) -> Callable[..., None]:
    """A command whose `asked: Asking` is typed as options of its own, behind those it has itself."""
    own, hints = inspect.signature(command), get_type_hints(command, include_extras=True)
    shared = get_type_hints(Asking, include_extras=True)
    parameters = [
        one.replace(annotation=hints[name], kind=inspect.Parameter.KEYWORD_ONLY)
        for name, one in own.parameters.items()
        if name != "asked"
    ]
    parameters += [
        inspect.Parameter(
            one.name,
            inspect.Parameter.KEYWORD_ONLY,
            default=inspect.Parameter.empty if one.default is MISSING else one.default,
            annotation=shared[one.name],
        )
        for one in fields(Asking)
    ]

    def typed(**given: Any) -> None:
        told = {name: given.pop(name) for name in shared}
        command(**given, asked=Asking(**told))

    typed.__signature__ = inspect.Signature(parameters)
    typed.__name__, typed.__doc__ = command.__name__, command.__doc__
    return typed
