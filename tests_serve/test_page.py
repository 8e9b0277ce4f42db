"""The page, looked at and driven in a Chromium: upload, ask, move the slider, and the picture changes."""

from __future__ import annotations

import re
import tempfile
from pathlib import Path
from urllib.parse import parse_qs, urlsplit

import httpx
import pytest
from browser import CHROMIUM, browser
from conftest import CHAT, body, examples, said, serving

pytestmark = pytest.mark.skipif(CHROMIUM is None, reason="no Chromium on this machine")
WIDE = "document.documentElement.scrollWidth <= window.innerWidth"


@pytest.fixture(scope="module")
def page():
    """A server with its page."""
    with serving(page=True) as (client, _):
        yield client


@pytest.fixture(scope="module")
def tab():
    """A tab of a browser."""
    with browser() as found:
        yield found


def value(k: int) -> str:
    """The script for the answer in a column."""
    return f"document.querySelector('#answer-{k} textarea')?.value"


def kept(k: int) -> str:
    """The script for the address of the picture in a column."""
    return f"document.querySelector('#kept-{k} img')?.src"


def figures(tab, k: int) -> dict[str, list[str]]:
    """The table in a column by its rows."""
    rows = tab.run(f"document.querySelector('#figures-{k}').innerText").strip().split("\n")
    return {row.split("\t")[0]: row.split("\t")[1:] for row in rows if row.strip()}


def asked(tab, client, tmp_path, **settings):
    """The page with these settings in its link, a picture uploaded, and its question asked."""
    example = examples()[11]
    example.images[0].save(tmp_path / "picture.png")
    tab.open(str(client.base_url.copy_merge_params({"question": example.question, **settings})))
    tab.until("document.querySelector('#question textarea')?.value")
    tab.upload("input[type=file]", tmp_path / "picture.png")
    tab.until("[...document.querySelectorAll('img')].some(i => i.src.includes('picture'))")
    tab.run("document.querySelector('#ask').click()")
    tab.until(f"{value(0)} && {kept(1)}")
    return example


def test_upload_ask_move_the_slider(page, tab, tmp_path):
    asked(tab, page, tmp_path, method="fastv", keep="0.5")
    full = said(page.post(CHAT, json=body(11)))
    half = said(page.post(CHAT, json=body(11, method="fastv", keep=0.5)))
    assert (tab.run(value(0)), tab.run(value(1))) == (full, half)
    assert figures(tab, 0)["visual tokens"][0].strip() == "144"
    assert [cell.strip() for cell in figures(tab, 1)["visual tokens"]] == ["72", "50%"]
    assert figures(tab, 1).keys() == {"visual tokens", "prefill", "MACs", "KV cache"}
    answered = r'requests_total{outcome="answered"} (\S+)'
    assert (
        float(re.search(answered, page.get("/metrics").text)[1]) >= 4
    )  # the page's two among them
    before = tab.run(kept(1))
    tab.run("document.querySelector('#keep input[type=number]').focus()")
    tab.type("#keep input[type=number]", "0.1")
    tab.run("document.querySelector('#keep input[type=number]').blur()")
    tab.run(
        "document.querySelector('#keep input[type=range]').dispatchEvent(new Event('pointerup'))"
    )
    tab.until(f"{kept(1)} && {kept(1)} != {before!r}")
    assert figures(tab, 1)["visual tokens"][0].strip() == "14"
    tab.until("location.search.includes('keep=0.1')")
    link = parse_qs(urlsplit(tab.run("location.href")).query)
    assert link["method"] == ["fastv"] and link["question"] == [examples()[11].question]


def test_a_second_method_stands_beside_the_first(page, tab, tmp_path):
    asked(tab, page, tmp_path, method="pool", other="divprune", keep="0.25")
    tab.until(f"{value(2)} && {kept(2)}")
    for k, method in ((1, "pool"), (2, "divprune")):
        assert tab.run(value(k)) == said(page.post(CHAT, json=body(11, method=method, keep=0.25)))
    labels = tab.run("document.body.innerText")
    assert "pool at 0.25" in labels and "divprune at 0.25" in labels


def test_a_budget_that_a_method_has_not_is_said_in_its_column(page, tab, tmp_path):
    asked_ = (
        "[...document.querySelectorAll('#figures-2')].some(e => e.innerText.includes('1/stride'))"
    )
    asked(tab, page, tmp_path, method="divprune", other="pool", keep="0.4")
    tab.until(asked_)
    assert tab.run(value(1)) and not tab.run(value(2))


def test_a_method_of_one_budget_is_asked_with_that(tab, tmp_path):
    with serving("embedded-llava_stf", page=True) as (client, _):
        asked(tab, client, tmp_path, method="llava_stf", other="stride")
        assert tab.run(value(1)) == said(client.post(CHAT, json=body(11)))
        assert figures(tab, 1)["visual tokens"][0].strip() == "36"


@pytest.mark.parametrize(("width", "dark"), [(1400, False), (1400, True), (390, False)])
def test_it_fits_and_takes_nothing_from_elsewhere(page, tab, width, dark):
    tab.asked.clear()
    tab.open(str(page.base_url), width=width, dark=dark)
    tab.until("document.querySelector('#ask')")
    assert tab.run(WIDE)
    dim = "getComputedStyle(document.body).backgroundColor.match(/\\d+/g).slice(0, 3).map(Number)"
    assert (sum(tab.run(dim)) < 200) is dark
    away = [u for u in tab.asked if not u.startswith((str(page.base_url), "data:", "blob:"))]
    assert tab.asked and away == []


def joined(page, path) -> httpx.Response:
    """What asking about this file says, as the page's own script asks."""
    file = {"path": path, "meta": {"_type": "gradio.FileData"}}
    data = [file, "what ?", "divprune", "(none)", 0.5]
    asked_ = {"data": data, "fn_index": 1, "session_hash": "a"}
    for place in ("/gradio_api/run/columns", "/gradio_api/api/columns"):
        response = page.post(place, json=asked_)
        assert response.status_code >= 400 and "root:" not in response.text
    return page.post("/gradio_api/queue/join", json=asked_)


def test_the_page_opens_no_address_and_no_file_of_the_server(page, tmp_path):
    examples()[11].images[0].save(picture := tmp_path / "picture.png")
    uploads = Path(tempfile.gettempdir(), "gradio")
    beside = [str(uploads / ".." / picture.relative_to("/tmp")), f"{uploads}/../../etc/passwd"]
    for path in (
        "http://example.com/a.png",
        "/etc/passwd",
        str(picture),
        "README.md",
        *beside,
        "\0",
    ):
        response = joined(page, path)
        assert response.status_code == 400 and "uploaded" in response.text, path
    for path in ("/etc/passwd", str(picture)):
        assert page.get(f"/gradio_api/file={path}").status_code in (403, 404)
