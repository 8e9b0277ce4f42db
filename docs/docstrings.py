"""How mkdocstrings reads foveate's docstrings: columns become tables, fields are told by their class."""

from __future__ import annotations

import re
from typing import Any

import griffe

COLUMNS = re.compile(r"\S+(?:,? \S+)* {2,}\S")


class Docstrings(griffe.Extension):
    """Read statically; no module is imported."""

    def on_instance(self, *, obj: griffe.Object, **_: Any) -> None:
        """The docstring of any object."""
        if obj.docstring:
            paragraphs = obj.docstring.value.split("\n\n")
            obj.docstring.value = "\n\n".join(map(tabled, paragraphs))

    def on_class_members(self, *, cls: griffe.Class, **_: Any) -> None:
        """Fields without a docstring of their own leave: the class says what they are."""
        _leave(cls)

    def on_module_members(self, *, mod: griffe.Module, **_: Any) -> None:
        """So do constants: what means something is said where it is used."""
        _leave(mod)


def _leave(owner: griffe.Object) -> None:
    for name, member in list(owner.members.items()):
        if not member.is_alias and member.is_attribute and not member.has_docstring:
            owner.del_member(name)


def tabled(paragraph: str) -> str:
    """A paragraph of `name  meaning` lines as a table; further lines of a meaning are indented."""
    lines = paragraph.splitlines()
    names = [line for line in lines if COLUMNS.match(line)]
    if len(names) < 2 or any(line not in names and not line.startswith("  ") for line in lines):
        return paragraph
    rows: list[list[str]] = []
    for line in lines:
        if line in names:
            rows.append([part.replace("|", "\\|") for part in re.split(r" {2,}", line, maxsplit=1)])
        else:
            rows[-1][1] += f" {line.strip()}"
    table = "\n".join(f"| `{name}` | {meaning} |" for name, meaning in rows)
    return f"| | |\n| --- | --- |\n{table}"
