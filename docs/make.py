"""Write what is generated in README.md and docs/: tables and pictures. Run by `make docs`.

A page says where: `<!-- methods: written by docs/make.py -->` … `<!-- /methods -->`. Nothing here invents a
number: methods come from their docstrings, results from results/*.json.
`python docs/make.py --check` only says which pages are not as they would be written.
"""

from __future__ import annotations

import os
import re
import sys
from pathlib import Path

import grid
import outcomes
import pictures
import tables

ROOT = Path(__file__).resolve().parents[1]
DOCS = ROOT / "docs"
PAGES = [ROOT / "README.md", DOCS / "index.md", *sorted((DOCS / "site").glob("*.md"))]
MARK = ": written by docs/make.py -->"
BLOCK = re.compile(rf"<!-- (?P<name>[a-z]+){MARK}\n.*?<!-- /(?P=name) -->", re.DOTALL)
BLOCKS = {
    "methods": tables.methods,
    "arguments": tables.arguments,
    "families": tables.families,
    "costs": outcomes.costs,
    "speed": outcomes.speed,
    "selectors": outcomes.selectors,
    "grid": grid.page,
    "training": outcomes.training,
}


def filled(page: Path, text: str) -> str:
    """A page with what stands between its markers written anew. Raises ValueError for one without an end."""
    up = os.path.relpath(ROOT, page.parent)

    def anew(found: re.Match[str]) -> str:
        name = found["name"]
        body = BLOCKS[name]().replace("](results/", f"]({up}/results/".replace("(./", "("))
        return f"<!-- {name}{MARK}\n\n{body}\n\n<!-- /{name} -->"

    after, n = BLOCK.subn(anew, text)
    if n != text.count(MARK):
        raise ValueError(f"{page.name}: a block of docs/make.py has no end")
    return after


def main() -> int:
    """Write everything, or check."""
    texts = {page: page.read_text() for page in PAGES}
    stale = {page: new for page, text in texts.items() if (new := filled(page, text)) != text}
    if "--check" in sys.argv[1:]:
        print(*(f"{page.relative_to(ROOT)} is stale: make docs" for page in stale), sep="\n")
        return int(bool(stale))
    for page, text in stale.items():
        page.write_text(text)
    (DOCS / "kept.png").write_bytes(pictures.kept())
    for name, picture in grid.pictures().items():
        (DOCS / name).write_bytes(picture)
    return 0


if __name__ == "__main__":
    sys.exit(main())
