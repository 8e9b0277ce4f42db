"""The page at /: one picture and question, and what the model answers from all tokens and from few."""

from __future__ import annotations

import asyncio
import html
import time
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import gradio as gr
from fastapi import FastAPI
from PIL import Image, ImageOps

from foveate import tasks
from foveate.core.spec import named
from foveate.draw import panels
from foveate.evaluate.plans import BARE
from foveate.evaluate.prompts import Ask
from foveate.registry.loading import support
from foveate.serve.engine import Engine
from foveate.serve.limits import Refused
from foveate.serve.reader import Reader
from foveate.serve.rows import Row, Wanted

NONE = "(none)"
ALL = "All tokens"
FIRST = "divprune"  # what a bare model is asked with at first
SHARE, LEAST = 0.25, 0.05  # where the slider begins, and where it ends
SIDE = 336  # pixels of a picture
SHOWN = 5  # example questions
# The link in the address bar says what is asked.
LINK = """(question, method, other, keep) => {
    const link = new URL(window.location)
    for (const [name, value] of Object.entries({question, method, other, keep}))
        link.searchParams.set(name, value)
    window.history.replaceState(null, "", link)
}"""
ONCE = "prefill"
COLUMNS = 1 + 3 * 3  # what `columns` gives
UNITS = {"MACs": (1e9, "G"), "KV cache": (2**20, "MiB"), "prefill": (1e-3, "ms")}

Canvas = Callable[[Any, Image.Image, str, Any], Any]
Column = tuple[Any, Any, str]  # an answer, a picture, and figures


@dataclass(frozen=True)
class Asker:
    """Answers what the page asks. canvas: what steps are drawn on, of (processor, image, question, step)."""

    engine: Engine
    reader: Reader
    canvas: Canvas

    async def columns(
        self, path: str | None, question: str, method: str, other: str, keep: float
    ) -> list[Any]:
        """What stands in the columns: all tokens, the method, and the other one; and whether that is seen."""
        if path is None or not question.strip():
            raise said("Choose a picture and ask something about it.")
        content = [
            {"type": "image", "url": Path(path).read_bytes()},
            {"type": "text", "text": question},
        ]
        try:
            ask, new = await self.reader.ask([{"role": "user", "content": content}])
        except Refused as refused:
            raise said(str(refused)) from refused
        names = (BARE, method, other)
        rows = await asyncio.gather(*(self._row(name, keep, ask, new) for name in names))
        found = [await self._column(row, rows[0]) for row in rows]
        return [gr.Column(visible=other != NONE), *(value for column in found for value in column)]

    async def again(self, path: str | None, question: str, *settings: Any) -> list[Any]:
        """The columns after a setting was changed; as they are while nothing is asked yet."""
        if path is None or not question.strip():
            return [gr.skip()] * COLUMNS
        return await self.columns(path, question, *settings)

    def methods(self) -> list[str]:
        """The methods that this model can be asked with; its own one first."""
        choice = self.reader.choice
        own = next((p.method for p in (choice.saved, choice.usual) if p and p.compressor), FIRST)
        works = [name for name, known in support(choice.loaded.model).items() if known.works]
        return [name for name in dict.fromkeys((own, *works)) if name != BARE and self._has(name)]

    def _has(self, name: str) -> bool:
        try:
            return self.reader.plan(name, None) is not None
        except Refused:
            return False

    async def _row(self, name: str, keep: float, ask: Ask, new: int) -> Row | str:
        """A request and its answer, or why there is none; "" where none is wanted."""
        if name == NONE:
            return ""
        end = time.monotonic() + self.engine.limits.seconds
        try:
            whole = name == BARE or self.reader.choice.settled(name)
            share = None if whole else float(keep)
            plan = await asyncio.to_thread(self.reader.plan, name, share)
            row = Row(Wanted(ask, plan, new, end, looks=True))
            with self.engine.place():
                self.engine.submit(row)
            try:
                while not row.over:
                    await row.news()
            finally:
                self.engine.cancel(row)
            if row.refused is not None:
                raise row.refused
        except Refused as refused:
            self.engine.meters.requests.labels(str(refused.status)).inc()
            return str(refused)
        self.engine.meters.requests.labels("answered").inc()
        return row

    async def _column(self, row: Row | str, full: Row | str) -> Column:
        if isinstance(row, str) or isinstance(full, str):
            return gr.Textbox(""), None, row if isinstance(row, str) else ""
        loop = asyncio.get_running_loop()
        picture = await loop.run_in_executor(self.reader.thread, self._drawn, row)
        plan = row.wanted.plan
        label = ALL if plan.compressor is None else named(plan.method, plan.keep)
        return gr.Textbox(row.shown, label=label), picture, told(figures(row), figures(full))

    def _drawn(self, row: Row) -> Image.Image:
        [image], question = row.wanted.ask
        if not row.look.steps:
            return ImageOps.contain(image, (SIDE, SIDE))
        shown = self.canvas(self.reader.processor, image, question, row.look.steps[0])
        shown = shown if isinstance(shown, Image.Image) else shown[0]
        return panels(shown, row.look.steps, side=SIDE, maps=False)[-1]


def figures(row: Row) -> dict[str, float]:
    """What an answer cost."""
    return {
        "visual tokens": row.reply.after,
        "prefill": row.reply.seconds,
        "MACs": row.look.cost["total"],
        "KV cache": row.look.cost["kv_bytes"],
    }


def told(own: Mapping[str, float], full: Mapping[str, float]) -> str:
    """Figures as a table, beside their share of those of all tokens; one run has a time, and no ratio."""
    lines = []
    for name, value in own.items():
        size, unit = UNITS.get(name, (1, ""))
        share = "" if name == ONCE else f"{value / full[name]:.0%}"
        lines.append(f"| {name} | {value / size:.3g} {unit} | {share} |")
    return "\n".join([lines[0], "| :--- | ---: | ---: |", *lines[1:]])


def said(why: str) -> gr.Error:
    """An error for whoever sees the page, which shows it as HTML, and for no log."""
    return gr.Error(html.escape(why), print_exception=False)


def mount(app: FastAPI, engine: Engine, reader: Reader, canvas: Canvas) -> FastAPI:
    """The application with the page at /."""
    asker = Asker(engine, reader, canvas)
    made = blocks(asker, engine.loaded.name)
    made.has_launched = True  # else Gradio takes any file of this machine for one of the page's own
    fonts = ["system-ui", "sans-serif"]
    return gr.mount_gradio_app(
        app,
        made,
        "/",
        theme=gr.themes.Base(primary_hue="teal", font=fonts, font_mono=["monospace"]),
        footer_links=[],
        ssr_mode=False,
        max_file_size=engine.limits.body,
    )


def blocks(asker: Asker, name: str) -> gr.Blocks:
    """The page. name: of the model."""
    methods = asker.methods()
    with gr.Blocks(title="foveate", analytics_enabled=False, delete_cache=(3600, 3600)) as made:
        gr.Markdown(f"# foveate\n{name} answers from all visual tokens, and from few.")
        with gr.Row():
            with gr.Column(scale=1, min_width=300):
                image, *settings = _fields(methods)
                button = gr.Button("Ask", variant="primary", elem_id="ask")
            with gr.Column(scale=3), gr.Row():
                columns = [_column(k) for k in range(3)]
        outputs = [columns[-1][0], *(one for column in columns for one in column[1:])]
        question, method, other, keep = settings
        gr.Examples(
            [[one.images[0], one.question] for one in tasks.examples("patchqa", SHOWN)],
            [image, question],
        )
        how = {"api_visibility": "private", "concurrency_limit": 8}
        for events, ask in (
            ([button.click, question.submit], asker.columns),
            ([keep.release, method.input, other.input], asker.again),
        ):
            asked = gr.on(events, ask, [image, *settings], outputs, **how)
            asked.then(None, settings, None, js=LINK)
        made.load(_settings(methods), None, settings, api_visibility="private")
    return made


def _fields(methods: list[str]) -> list[Any]:
    """Where one says what is asked: the picture, and what the link holds."""
    sources = ["upload", "clipboard"]
    return [
        # Handed over as it was uploaded: the server looks at its size first, and reads it its own way.
        gr.Image(type="filepath", image_mode=None, label="Picture", height=260, sources=sources),
        gr.Textbox(label="Question", elem_id="question"),
        gr.Dropdown(methods, value=methods[0], label="Method", elem_id="method"),
        gr.Dropdown([NONE, *methods], value=NONE, label="Beside it", elem_id="other"),
        gr.Slider(LEAST, 1.0, SHARE, step=0.05, label="Share kept", elem_id="keep"),
    ]


def _column(k: int) -> tuple[Any, ...]:
    """An answer, what it was given from, and what that cost. The last column is seen once it is filled."""
    with gr.Column(min_width=240, visible=k < 2) as column:
        return (
            column,
            gr.Textbox(label=(ALL, "Method", "Beside it")[k], elem_id=f"answer-{k}"),
            gr.Image(label="What is kept", format="png", elem_id=f"kept-{k}", buttons=[]),
            gr.Markdown(elem_id=f"figures-{k}"),
        )


def _settings(methods: list[str]) -> Callable[[gr.Request], list[Any]]:
    """What the link says, as far as there is such a thing."""

    def settings(request: gr.Request) -> list[Any]:
        given = dict(request.query_params)
        method = given.get("method") if given.get("method") in methods else methods[0]
        other = given.get("other") if given.get("other") in methods else NONE
        try:
            keep = min(max(float(given.get("keep", SHARE)), LEAST), 1.0)
        except ValueError:
            keep = SHARE
        return [given.get("question", ""), method, other, keep]

    return settings
