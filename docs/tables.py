"""The tables of methods and of model families, from what foveate says of itself."""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from typing import Any

# Read off the model.
SIZES = {"width", "feature_width", "tower_width", "tower_layers", "feature_layer", "layers"}


def methods() -> str:
    """One row per method, from its docstring."""
    rows = ((f"`{m['slug']}`", m["line"], _paper(m)) for m in _described())
    return table(("method", "what it does", "paper"), rows)


def arguments() -> str:
    """One row per method: where it acts, whether it is trained, and what it takes."""
    rows = (
        (
            f"`{m['slug']}`",
            ", ".join(m["sites"]) or "–",
            "trained" if m["trained"] else "none",
            ", ".join(f"`{name}`" for name in m["arguments"] if name not in SIZES),
        )
        for m in _described()
    )
    return table(("method", "acts at", "weights", "arguments"), rows)


def _described() -> list[dict[str, Any]]:
    from foveate.cli.methods import describe
    from foveate.methods import METHODS

    return [describe(slug, make) for slug, make in METHODS.items()]


def _paper(method: Mapping[str, Any]) -> str:
    if not method["arxiv"]:
        return "ours" if method["slug"] == "fovea" else "baseline"
    return f"[{method['paper']}](https://arxiv.org/abs/{method['arxiv']})"


FAMILIES = {
    "LLaVA-1.5": "llava",
    "LLaVA-NeXT": "llava_next",
    "LLaVA-OneVision": "llava_onevision",
    "Video-LLaVA": "video_llava",
    "Qwen2.5-VL": "qwen2_5_vl",
    "Qwen3-VL": "qwen3_vl",
    "InternVL": "internvl",
    "SmolVLM": "smolvlm",
    "Idefics3": "idefics3",
    "Gemma 3": "gemma3",
    "PaliGemma": "paligemma",
    "Mistral 3": "mistral3",
}


def families() -> str:
    """One row per family, from what `foveate.support` says of a model of its default config."""
    from transformers import AutoConfig

    import foveate
    from foveate.hosts import cost, traits

    rows = []
    for family, kind in FAMILIES.items():
        model = cost.skeleton(AutoConfig.for_model(kind))
        base, found = traits.base_of(model), foveate.support(model)
        zipped = found["visionzip"]
        early = "yes" if zipped.sites == ("features",) else "no: it merges windows"
        if any("interpolated" in note for note in zipped.notes):
            early = "yes, but for interpolated views"
        axes = "time, row, column" if hasattr(base, "get_rope_index") else "one"
        videos = "images" if traits.rows_are_runs(base) else "–"
        rows.append(
            (
                family,
                f"{sum(s.works for s in found.values())} of {len(found)}",
                early,
                "class token" if traits.has_class_token(base) else "attention received",
                "clips" if "video" in traits.modalities(base) else videos,
                axes,
            )
        )
    head = ("family", "methods", "before the projector", "`cls_attention`", "video", "positions")
    return table(head, rows)


def table(head: Iterable[str], rows: Iterable[Iterable[Any]]) -> str:
    """A Markdown table."""
    head = tuple(head)
    lines = [head, tuple("---" for _ in head), *rows]
    return "\n".join("| " + " | ".join(map(str, line)) + " |" for line in lines)
