"""Fill a page's numbers into the text that a person wrote, and refuse where they no longer fit.

A template sees every row by its name (`evidence.results.Found`), `groups`, `missing`, `made`, what the page
tells besides, and

    {% claim row.far.side < 0 %}A sentence that is true on this condition.{% endclaim %}
    sides([one.far, other.far]) == [-1]     in a condition: all of these are below zero for certain
    {{ row.accuracy }}   {{ row.far | points }}   {{ row.far | size }} points below
    {{ share | percent }}   {{ ratio | number(".2f") }}

A claim whose numbers are not run yet is left out.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterable
from functools import cache
from pathlib import Path
from typing import Any

from jinja2 import Environment, FileSystemLoader, StrictUndefined, nodes
from jinja2.ext import Extension
from jinja2.parser import Parser

from evidence.estimates import NOT_RUN, Estimate, NotRun
from evidence.protocol import Page
from evidence.results import missing, questions, read, rows
from foveate.keeping import provenance

TEMPLATES = Path(__file__).parent / "templates"


class UnsupportedError(ValueError):
    """A page states what its numbers do not say."""


class Claim(Extension):
    """`{% claim CONDITION %}a sentence{% endclaim %}`: the sentence stands only while the condition does."""

    tags = {"claim"}  # noqa: RUF012 - jinja2's way

    def parse(self, parser: Parser) -> nodes.Node:
        """The sentence becomes a call of `stated` with the condition's value."""
        line = next(parser.stream).lineno
        holds = parser.parse_expression()
        sentence = parser.parse_statements(("name:endclaim",), drop_needle=True)
        where = [nodes.Const(parser.name), nodes.Const(line)]
        return nodes.CallBlock(
            self.call_method("stated", [holds, *where]), [], [], sentence
        ).set_lineno(line)

    def stated(self, holds: Any, name: str, line: int, caller: Any) -> str:
        """The sentence, on a line of its own. Raises UnsupportedError when its condition is not met."""
        if isinstance(holds, NotRun):
            return ""
        sentence = caller().strip()
        if not holds:
            source, *_ = self.environment.loader.get_source(self.environment, name)
            condition = source.splitlines()[line - 1].strip()
            raise UnsupportedError(
                f"docs/{name.removesuffix('.jinja')}: the numbers no longer support “{sentence}” Write what "
                f"they say now in evidence/templates/{name}, line {line}: {condition}"
            )
        return sentence + "\n"


@cache
def environment() -> Environment:
    """Templates with claims and the filters for numbers."""
    made = Environment(
        loader=FileSystemLoader(TEMPLATES),
        extensions=[Claim],
        undefined=StrictUndefined,
        autoescape=False,
        trim_blocks=True,
        lstrip_blocks=True,
        keep_trailing_newline=True,
    )
    made.filters |= {"points": points, "size": size, "percent": percent, "number": format}
    made.globals["sides"] = sides
    return made


def sides(distances: Iterable[Estimate | NotRun]) -> list[int] | NotRun:
    """On which sides of zero, -1 to 1, some distances are; NOT_RUN while one of them is."""
    found = {far.side for far in distances}
    return NOT_RUN if NOT_RUN in found else sorted(found)


def points(far: Estimate | NotRun | float) -> str:
    """A distance in points, with its sign."""
    return far.text("+") if isinstance(far, Estimate) else f"{far:+.1f}"


def size(far: Estimate | NotRun) -> str:
    """A distance in points without its sign, where words say to which side it is."""
    return f"{far._replace(mean=abs(far.mean))}"


def percent(share: float | NotRun, digits: int = 1) -> str:
    """A share in per cent."""
    return f"{100 * share:.{digits}f}"


def text(page: Page) -> str:
    """The page with all its numbers. Raises UnsupportedError for a claim that no longer holds."""
    found = rows(page)
    template = environment().get_template(f"{page.name}.md.jinja")
    return template.render(
        {name.replace("-", "_"): row for name, row in found.items()},
        page=page,
        groups=Counter(question.group for question in questions(n=page.questions)),
        missing=missing(page),
        made=made(page),
        **page.tells(page, found),
    )


def made(page: Page) -> dict[str, Any]:
    """Where and with what the results of a page were made."""
    found = [result for run in page.runs() if (result := read(page, run)) is not None]
    where = [result["circumstances"] for result in found]
    return {
        "runs": len(list(page.runs())),
        "done": len(found),
        "commits": sorted({w["commit"][:7] for w in where if w["commit"]}),
        "versions": sorted(
            {f"{name} {w['versions'][name]}" for w in where for name in ("torch", "transformers")}
        ),
        "devices": sorted({w["device"] for w in where}),
    }


def write(page: Page) -> Path:
    """Write docs/<page>.md and its figure from the results; returns the page's path."""
    path = page.root / "docs" / f"{page.name}.md"
    content = text(page)
    page.draws(rows(page), path.with_suffix(".svg"))
    return provenance.write(path, content)
