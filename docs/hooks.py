"""What `make docs-site` does besides mkdocs: links into the checkout lead to the repository."""

from __future__ import annotations

import logging
import re
from pathlib import Path
from posixpath import normpath
from typing import Any

ROOT = Path(__file__).resolve().parents[1]
LINK = re.compile(r"(?<=\]\()(\.\./[^)#\s]+)")
BARE = re.compile(r'class="doc doc-contents[^"]*">\s*</div>')
log = logging.getLogger("mkdocs.hooks")


def on_page_markdown(markdown: str, page: Any, config: Any, **_: Any) -> str:
    """Links out of docs/, which work in a checkout, as links to the repository; a warning for a dead one."""

    def outside(found: re.Match[str]) -> str:
        path = normpath(f"docs/{page.file.src_uri}/../{found[1]}")
        if path.startswith("docs/"):
            return found[1]
        if not (ROOT / path).exists():
            log.warning("%s links to %s, which is not there", page.file.src_uri, path)
        return f"{config.repo_url}/blob/main/{path}"

    return LINK.sub(outside, markdown)


def on_page_content(html: str, page: Any, **_: Any) -> None:
    """A warning, and so an error, for a public name of the API without a docstring."""
    for found in BARE.finditer(html):
        name = re.findall(r'id="(foveate[\w.]*)"', html[: found.start()])[-1]
        log.warning("%s: %s has no docstring", page.file.src_uri, name)
