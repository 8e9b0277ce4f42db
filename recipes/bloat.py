"""Files, lines and functions by room: `make bloat`. The sum is to fall."""

from __future__ import annotations

import ast
from collections.abc import Iterable
from pathlib import Path

ROOT = Path(__file__).parents[1]
SOURCES = ("src/foveate", "recipes", "evidence")
MOST = {"sources": 20_000, "tests": 16_000}  # lines that CONTRIBUTING aims at


def main() -> None:
    total = counted(p for place in SOURCES for p in (ROOT / place).rglob("*.py"))
    print(f"{'room':<24}{'files':>7}{'lines':>8}{'functions':>11}")
    for name, paths in rooms().items():
        row(name, counted(paths))
    row("sources", total)
    row("tests", counted((ROOT / "tests").rglob("*.py")))
    print(f"to reach: sources {MOST['sources']:,}, tests {MOST['tests']:,} lines")


def rooms() -> dict[str, list[Path]]:
    """Every room with its files: those of the package by folder, then recipes and evidence."""
    package = ROOT / SOURCES[0]
    found = {"(root)": sorted(package.glob("*.py"))}
    for folder in sorted(p for p in package.iterdir() if (p / "__init__.py").exists()):
        found[folder.name] = sorted(folder.rglob("*.py"))
    return found | {name: sorted((ROOT / name).rglob("*.py")) for name in SOURCES[1:]}


def counted(paths: Iterable[Path]) -> tuple[int, int, int]:
    """How many files, lines and functions."""
    texts = [path.read_text() for path in paths]
    kinds = (ast.FunctionDef, ast.AsyncFunctionDef)
    functions = sum(isinstance(n, kinds) for text in texts for n in ast.walk(ast.parse(text)))
    return len(texts), sum(text.count("\n") for text in texts), functions


def row(name: str, counts: tuple[int, int, int]) -> None:
    files, lines, functions = counts
    print(f"{name:<24}{files:>7}{lines:>8,}{functions:>11,}")


if __name__ == "__main__":
    main()
