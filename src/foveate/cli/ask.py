"""`foveate ask`: one answer about one image, and how few tokens it took."""

from __future__ import annotations

import time
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

from foveate.cli import arguments, models, output, pictures, said, values
from foveate.cli.opening import Opened, opened
from foveate.cli.tables import switched
from foveate.cli.wrong import Wrong
from foveate.draw import draw
from foveate.embedded import carried

if TYPE_CHECKING:
    from foveate.core.spec import Spec
    from foveate.evaluate.plans import Loaded

Model = Annotated[
    str,
    typer.Option(
        help=f"{', '.join(map(repr, carried()))}, a directory with a saved model, or a Hub id such as "
        "owner/name."
    ),
]
Device = Annotated[str, typer.Option(help="cpu, cuda, …; auto takes the GPU if there is one.")]
AsJson = Annotated[bool, typer.Option("--json", help="One JSON document on stdout, nothing else.")]
Method = Annotated[
    str | None,
    typer.Option(
        help="Compress with this method, see `foveate methods`, or as the file of `foveate tune` says."
    ),
]
Keep = Annotated[
    str | None, typer.Option(help="Budget: 64 is tokens per image, 0.25 a share, 1.0 all.")
]
New = Annotated[
    int,
    typer.Option("--max-new-tokens", min=1, max=values.MOST_NEW, help="Longest answer, in tokens."),
]
Set = Annotated[
    list[str] | None,
    typer.Option("--set", metavar="K=V", help="An argument of the method; may be repeated."),
]


Protocol = Annotated[
    str | None,
    typer.Option(
        help="Ask as the papers do: 'llava' pads pictures, says LLaVA's v1 prompt and counts positions anew "
        "(LLaVA-1.5, LLaVA-NeXT).",
        show_default="the checkpoint's own",
    ),
]


Dropped = Annotated[
    str | None,
    typer.Option(
        help="What becomes of dropped tokens: 'gone', or 'merged' into the kept ones most like them.",
        show_default="as saved, else gone",
    ),
]
Attention = Annotated[
    str | None,
    typer.Option(
        help="How a merged token is looked at: 'plain' as one, 'proportional' as the patches it carries.",
        show_default="as saved, else plain",
    ),
]


def ask(
    image: Annotated[Path, typer.Argument(help="An image file.")],
    question: Annotated[str, typer.Argument(help="What to ask about it.")],
    model: Model = models.EMBEDDED,
    method: Method = None,
    keep: Keep = None,
    set_: Set = None,
    picture: Annotated[
        Path | None, typer.Option(**values.PATH, help="Draw what was kept into this file.")
    ] = None,
    max_new_tokens: New = 64,
    device: Device = "auto",
    protocol: Protocol = None,
    dropped: Dropped = None,
    attention: Attention = None,
    json: AsJson = False,
) -> None:
    """Answer a question about an image, and say from how many visual tokens."""
    question, shown = worded(question), pictures.read(image)
    if picture is not None:
        pictures.beside(picture, image)
    models.check_protocol(protocol)
    switches = models.switches(dropped=dropped, attention=attention)
    spec = chosen_method(method, keep, set_ or [], climbs=True)
    with output.answering() as emit:
        start = opened(model, device, protocol, spec, keep, set_ or [], switches=switches)
        loaded = start.loaded
        document, seen = answer(loaded, start.spec, shown, question, max_new_tokens)
        for remark in knows(loaded):
            output.note(remark)
        start.tell()
        if picture is not None:
            canvas = pictures.canvas(loaded.processor, shown, question, seen.steps[0])
            pictures.save(draw(canvas, _last(seen, document), above=above(document)), picture)
            document["picture"] = str(picture)
        if json:
            emit(document)
    if not json:
        _print(document)


def _last(seen: Any, document: dict[str, Any]) -> Any:
    """The trace of what an answer is from: where a question climbed, of its last rung."""
    import foveate

    if "rung" not in document:
        return seen
    if document["rung"] == 1.0:
        output.note("the answer is from all tokens: the picture shows the rung below")
    steps = len({step.site for step in seen.steps})
    return foveate.Trace(seen.steps[-steps:])


def above(document: dict[str, Any]) -> list[str]:
    """What stands above a picture: the question, the answer, and who saw so few tokens."""
    tokens = document["tokens"]
    return [
        f"Question: {said.cut(document['question'])}",
        f"Answer: {said.cut(document['answer']) or '(none)'}",
        f"{document['method']}: {tokens['after']} of {tokens['before']} visual tokens",
    ]


def knows(loaded: Loaded) -> list[str]:
    """What one must know of an answer by a model that comes with foveate: nobody looks what is asked."""
    from foveate.embedded import MODELS

    if loaded.name not in MODELS:
        return []
    return [
        f"{loaded.name} is a small model that knows PatchQA's scenes and questions alone: of photos it says "
        "nothing to rely on; name another with --model"
    ]


def worded(question: str) -> str:
    """The question. Raises Wrong if there is none."""
    if not question.strip():
        raise Wrong("the question is empty: ask something, such as 'what is in the picture ?'")
    if not said.utf8(question):
        raise Wrong(f"the question is no UTF-8: {question}")
    return question.strip()


def chosen_method(
    method: str | None, keep: str | None, pairs: list[str], climbs: bool = False
) -> Spec | None:
    """The method asked for; None leaves the model as it was saved, but for what `adjust` changes.

    climbs: whether it may be a ladder. Raises Wrong where it may not.
    """
    if method is None:
        return None
    spec = arguments.chosen(method, None if keep is None else arguments.budget(keep), pairs)
    if "ladder" in spec.switches and not climbs:
        raise Wrong(f"{method} is a ladder, for ask, eval and serve without vLLM: want one budget")
    return spec


def answer(
    loaded: Loaded, spec: Spec | None, image: Any, question: str, max_new_tokens: int
) -> tuple[dict[str, Any], Any]:
    """One answer with its figures, and the trace of what was kept."""
    import foveate
    from foveate import evaluate

    _check_fits(loaded, image, question, max_new_tokens)
    attach(loaded, spec)
    attachment, started = loaded.model.model.visual_attachment, time.perf_counter()
    with foveate.trace(loaded.model) as seen, models.asked(loaded):
        reply = evaluate.replies(
            loaded.model, loaded.processor, [([image], question)], max_new_tokens
        )[0]
    return {
        "answer": reply.text,
        "question": question,
        "model": loaded.name,
        "protocol": loaded.protocol,
        **{name: getattr(attachment.switches, name) for name in ("dropped", "attention")},
        **(
            {} if reply.rung is None else {"ladder": [*attachment.ladder.keeps], "rung": reply.rung}
        ),
        "method": str(loaded.model.model.visual_compressor.at(1.0)),
        "untrained": Opened(loaded, spec, None).acting.untrained,
        "tokens": {"before": round(reply.before), "after": round(reply.after)},
        "steps": [
            {"site": str(s.site), "before": int(s.before[0]), "after": int(s.after[0])}
            for s in seen.steps
        ],
        "seconds": round(time.perf_counter() - started, 3),
    }, seen


def _check_fits(loaded: Loaded, image: Any, question: str, max_new_tokens: int) -> None:
    """Raise Wrong for a question that holds an image token, or is longer than the model was made for."""
    from foveate import evaluate

    token = getattr(loaded.processor, "image_token", "<image>")
    if token in question:
        raise Wrong(f"the question holds {token}: leave it out, the image is put in by itself")
    inputs, _ = evaluate.encode(loaded.processor, [([image], question)])
    length = inputs["input_ids"].shape[1]
    most = loaded.model.config.get_text_config().max_position_embeddings
    if length + max_new_tokens > most:
        raise Wrong(
            f"{length} tokens of prompt and image and {max_new_tokens} of answer: the model takes {most}"
        )


def attach(loaded: Loaded, spec: Spec | None) -> None:
    """Compress with what was asked for, else leave what the checkpoint brought, else keep everything.

    Raises Wrong if the model cannot be compressed so.
    """
    import foveate
    from foveate import evaluate
    from foveate.hosts import attach

    model = loaded.model
    if spec is None and foveate.is_compressed(model):
        return
    try:
        method = foveate.Identity() if spec is None else spec.build(model=model)
        bare = spec is None or spec.slug == evaluate.plans.BARE
        attach.compress(model, method, **({} if bare else loaded.how(method)))
    except (ValueError, TypeError, NotImplementedError) as error:
        raise Wrong(str(error)) from error


def _print(document: dict[str, Any]) -> None:
    tokens = document["tokens"]
    output.say(document["answer"] or "(no answer)", "bold")
    share = f"{100 * tokens['after'] / tokens['before']:.0f} %" if tokens["before"] else "–"
    line = f"visual tokens {tokens['before']} → {tokens['after']} ({share}), {document['seconds']:.2f} s"
    acts = f"{document['method']}{' (untrained)' if document['untrained'] else ''}"
    acts += f", protocol {document['protocol']}" if document["protocol"] else ""
    acts += switched(document)
    if "rung" in document:
        acts += f", up a ladder of {', '.join(map(str, document['ladder']))} to {document['rung']}"
    output.say(f"{acts}: {line}", "dim")
    if "picture" in document:
        output.say(f"what was kept: {document['picture']}", "dim")
