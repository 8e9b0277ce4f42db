"""Finished cells of a benchmark, kept beside the file they go to until all are there."""

from __future__ import annotations

import json
from collections.abc import Iterable, Mapping
from pathlib import Path
from typing import Any

from foveate.keeping.provenance import dumps, made, sealed, write

KIND = "cells of a benchmark"


class Journal:
    """What is finished of a benchmark that writes `out`: a killed one goes on where it stopped.

    key: everything that makes two runs the same. `out` itself is written once, whole, at the end.
    Without `out` nothing is kept. Cells that are not as they were written are measured again, with a warning.
    Raises FileExistsError rather than overwrite another run's cells.
    """

    def __init__(self, out: Path | None, key: Mapping[str, Any]):
        self.out = Path(out) if out is not None else None
        self.key = json.loads(dumps(key))
        self.cells: dict[str, dict[str, Any]] = {}
        if self.out is not None and (found := made(self.partial, kind=KIND)) is not None:
            self._check(found)
            self.cells = found["cells"]
        self.resumed = len(self.cells)

    def _check(self, found: Mapping[str, Any]) -> None:
        names = [*self.key, *found["key"]]
        other = [n for n in dict.fromkeys(names) if found["key"].get(n) != self.key.get(n)]
        if other:
            raise FileExistsError(
                f"{self.partial} holds {len(found['cells'])} finished cells of a run that differs in "
                f"{', '.join(other)}: finish that one, remove the file, or write elsewhere"
            )

    @property
    def partial(self) -> Path:
        """Where finished cells wait."""
        return self.out.with_name(f"{self.out.name}.partial")

    def missing(self, names: Iterable[str]) -> list[str]:
        """Those of these cells that are not finished."""
        return [name for name in names if name not in self.cells]

    def keep(self, made: Mapping[str, dict[str, Any]]) -> None:
        """Keep finished cells; not those that say why there is none."""
        done = {name: cell for name, cell in made.items() if "why" not in cell}
        if self.out is not None and done:
            self.cells |= done
            write(self.partial, dumps(sealed({"kind": KIND, "key": self.key, "cells": self.cells})))

    def finish(self, document: Mapping[str, Any]) -> None:
        """Write the whole, and forget the parts."""
        if self.out is not None:
            write(self.out, dumps(document))
            self.partial.unlink(missing_ok=True)
