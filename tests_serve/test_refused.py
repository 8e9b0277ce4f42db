"""What is refused, with which status and words; and what one client's fault costs the others."""

from __future__ import annotations

import asyncio
import base64
import contextlib
import io
import json
import socket
import threading
import time
from concurrent.futures import ThreadPoolExecutor

import httpx
import pytest
from conftest import CHAT, body, said, serving, url
from PIL import Image

from foveate.evaluate.plans import BARE, Plan
from foveate.serve import pictures
from foveate.serve.limits import Limits, Refused
from foveate.serve.rows import Row, Wanted


def picture(at: str, **more: str) -> dict:
    """A request about the picture at some place."""
    place = {"type": "image_url", "image_url": {"url": at, **more}}
    content = [place, {"type": "text", "text": "what ?"}]
    return {"messages": [{"role": "user", "content": content}]}


def turns(*roles: str) -> dict:
    """A conversation of these speakers."""
    return {"messages": [{"role": role, "content": "a"} for role in roles]}


def huge() -> str:
    """A picture of few bytes and very many pixels."""
    Image.new("1", (20_000, 20_000)).save(file := io.BytesIO(), "PNG")
    return f"data:image/png;base64,{base64.b64encode(file.getvalue()).decode()}"


@pytest.mark.parametrize(
    ("asked", "status", "why"),
    [
        (body(n=2), 400, "n=2: this server has no n: want 1, or leave it out"),
        (body(tools=[{"type": "function"}]), 400, "has no tools"),
        (body(logprobs=True), 400, "has no logprobs"),
        (body(response_format={"type": "json_object"}), 400, "has no response_format"),
        (body(frequency_penalty=0.5), 400, "has no frequency_penalty"),
        (body(methode="divprune"), 400, "nearest: method"),
        (body(method="divprun"), 400, "nearest: divprune"),
        (body(method="fastv(layr=3)"), 400, "nearest: layer"),
        (body(method="stride,pool"), 400, "want one"),
        (body(method="os:system"), 400, "no code"),
        (body(method="divprune(keep=9)", keep=16), 400, "give it once"),
        (body(method="divprune", keep="many"), 400, "keep='many'"),
        (body(method="divprune", keep=-1), 400, "keep=-1"),
        (body(method="fastv(layer=99)"), 400, "99"),
        (body(model="gpt"), 404, "this server has embedded"),
        (body(max_tokens=5000), 400, "want at most 1024"),
        (body(max_tokens=0), 400, "max_tokens"),
        (body(temperature=9), 400, "temperature"),
        (body(stop=["a"] * 5), 400, "want at most 4"),
        ({}, 400, "messages"),
        (turns("assistant"), 400, "the user last"),
        (turns("user", "user"), 400, "in turn"),
        (turns("system", "user"), 400, "knows no system turn"),
        ({"messages": [{"role": "user", "content": " "}]}, 400, "is empty"),
        ({"messages": [{"role": "user", "content": "a", "tool_calls": [1]}]}, 400, "'tool_calls'"),
        ({"messages": [{"role": "user", "content": "a <image>"}]}, 400, "holds <image>"),
        ({"messages": [{"role": "user", "content": "a " * 200_000}]}, 413, "letters"),
        ({"messages": [{"role": "user", "content": "what " * 9000}]}, 400, "tokens"),
        (picture("data:image/png;base64,@@@"), 400, "base64 is broken"),
        (picture("data:image/png;base64"), 400, "without a comma"),
        (picture("data:image/png;base64,aGVsbG8="), 400, "cannot be read"),
        (picture(url(0)[:222]), 400, "cannot be read"),
        (picture("file:///etc/passwd"), 400, "want a data URL"),
        (picture("/etc/passwd"), 400, "want a data URL"),
        (picture("http://127.0.0.1/"), 400, "fetches no pictures"),
        (picture(huge()), 413, "far too many pixels"),
        (picture(url(0), detail="low"), 400, "detail=low: say with method and keep"),
        (
            {"messages": [{"role": "user", "content": None}]},
            400,
            "0.content: want a text, or a list",
        ),
        (
            {"messages": [{"role": "user", "content": [{"type": "video_url"}]}]},
            400,
            "text or image_url",
        ),
        ({"messages": [{"role": "user", "content": "a \ud800"}]}, 400, "half a character"),
        (body(keep=True), 400, "keep: want a number of tokens, such as 36"),
        (body(stop=[1]), 400, "stop.0: want a text, or a list of texts"),
        (body(method="identity", keep=36), 400, "identity keeps all tokens: leave keep=36 out"),
    ],
)
def test_what_cannot_be_answered_is_refused_in_our_words(embedded, asked, status, why):
    # As ASCII: JSON can say half a character, which no other text can.
    response = embedded.post(
        CHAT, content=json.dumps(asked), headers={"content-type": "application/json"}
    )
    error = response.json()["error"]
    assert (response.status_code, error["type"]) == (status, "invalid_request_error")
    assert why in error["message"], error


def test_openais_idle_fields_are_idle(embedded):
    idle = {
        "n": 1,
        "tools": None,
        "response_format": {"type": "text"},
        "user": "me",
        "logit_bias": {},
    }
    assert said(embedded.post(CHAT, json=body(2, **idle))) == said(
        embedded.post(CHAT, json=body(2))
    )


@pytest.mark.parametrize("raw", [b"", b"{", b"[]", b"\xff", b"[" * 100_000])
def test_what_is_no_json_is_refused(embedded, raw):
    response = embedded.post(CHAT, content=raw, headers={"content-type": "application/json"})
    why = response.json()["error"]["message"]
    assert response.status_code == 400 and any(
        words in why for words in ("the body is no JSON", "parsing the body", "Content-Type")
    )
    plain = embedded.post(CHAT, content=json.dumps(body()), headers={"content-type": "text/plain"})
    assert plain.status_code == 400 and "Content-Type: application/json" in plain.text


def test_limits_hold():
    limits = Limits(images=4, pixels=10_000, body=200_000, answer=4, prompt=200)
    with serving(limits=limits) as (client, _):
        two, many = body(), body()
        two["messages"][0]["content"] *= 5
        many["messages"][0]["content"] *= 2  # each has few enough
        for asked, status, why in (
            (two, 413, "5 pictures: want at most 4"),
            ({"messages": [{"role": "user", "content": "a" * 250_000}]}, 413, "200,000 bytes"),
            (body(max_tokens=5), 400, "want at most 4"),
            (many, 413, "10,000 in all pictures of a request"),
        ):
            response = client.post(CHAT, json=asked)
            assert response.status_code == status and why in response.text
        pieces = (b"a" * 10_000 for _ in range(30))  # no length is told
        assert client.post(CHAT, content=pieces).status_code == 413
        assert said(client.post(CHAT, json=body()))


def test_who_has_no_key_is_refused():
    with serving(api_key="open sesame") as (client, _):
        assert client.post(CHAT, json=body()).status_code == 401
        assert client.get("/v1/models").status_code == 401
        refused = client.get("/v1/models", headers={"Authorization": "Bearer open"})
        assert refused.status_code == 401 and refused.headers["WWW-Authenticate"] == "Bearer"
        client.headers["Authorization"] = "bearer open sesame"
        assert said(client.post(CHAT, json=body()))
        assert client.get("/v1/models").json()["data"][0]["id"] == "embedded"


def test_a_full_house_says_come_back_and_a_late_answer_is_an_error():
    limits, long = Limits(queue=2, seconds=1), {"max_tokens": 1000}
    with serving(limits=limits, endless=True) as (client, made), ThreadPoolExecutor(3) as pool:
        many = [pool.submit(client.post, CHAT, json=body(i, **long)) for i in range(3)]
        found = sorted((one.result() for one in many), key=lambda r: r.status_code)
        assert [r.status_code for r in found] == [429, 504, 504]
        assert found[0].headers["retry-after"] == "1"
        assert left(made)
        begun = client.post(CHAT, json=body(0, **long, stream=True))
        assert begun.status_code == 200 and "no answer in time" in begun.text
        assert "[DONE]" not in begun.text


def test_an_answer_that_is_done_is_not_late_because_others_are_not():
    """Two of a batch: one ends at once and waits for the other, beyond its own time."""
    limits = Limits(batch=2, seconds=3)
    with serving(limits=limits, endless=True) as (client, _), ThreadPoolExecutor(2) as pool:
        first = pool.submit(client.post, CHAT, json=body(0, max_tokens=100))  # both wait behind it
        time.sleep(0.2)
        pair = [pool.submit(client.post, CHAT, json=body(1, max_tokens=n)) for n in (1000, 2)]
        assert first.result().status_code == 200
        assert pair[1].result().status_code == 200


def test_a_client_of_openais_finds_the_model_and_hears_what_is_not_there(embedded):
    assert embedded.get("/v1/models/embedded").json()["id"] == "embedded"
    for method, path in (("GET", "/v1/models/gpt"), ("GET", CHAT), ("POST", "/v1/completions")):
        response = embedded.request(method, path)
        assert response.status_code == 404 and response.json()["error"]["message"].startswith("no ")


def test_the_model_refuses_one_row_and_answers_the_others(embedded):
    """`sparsevlm` reads the words behind a picture, and this one has none."""
    mute = body(0, method="sparsevlm", keep=36, stream=True)
    mute["messages"][0]["content"].pop()
    asked = [*(body(i, method="sparsevlm", keep=36) for i in range(15)), mute]
    alone = [said(embedded.post(CHAT, json=one)) for one in asked[:-1]]
    with ThreadPoolExecutor(16) as pool:
        *others, last = pool.map(lambda one: embedded.post(CHAT, json=one), asked)
    assert last.status_code == 400 and "one question behind its images" in last.text
    assert [said(other) for other in others] == alone


def left(made, seconds: float = 5) -> bool:
    """Whether nobody is in the house within some seconds."""
    end = time.monotonic() + seconds
    while not (idle := made.engine.idle) and time.monotonic() < end:
        time.sleep(0.02)
    return idle


def raw(client: httpx.Client, asked: dict) -> socket.socket:
    """A connection that has sent a request and not read anything."""
    at, data = client.base_url, json.dumps(asked).encode()
    head = f"POST {CHAT} HTTP/1.1\r\nHost: a\r\nContent-Type: application/json\r\n"
    connection = socket.create_connection((at.host, at.port))
    connection.sendall(f"{head}Content-Length: {len(data)}\r\n\r\n".encode() + data)
    return connection


@pytest.mark.parametrize("stream", [False, True])
def test_who_leaves_frees_the_place(stream):
    with serving(endless=True, limits=Limits(batch=1)) as (client, made):
        gone = [raw(client, body(i, max_tokens=350, stream=stream)) for i in range(4)]
        time.sleep(0.5)
        assert not made.engine.idle
        for connection in gone:
            connection.close()
        assert left(made, 3)  # four answers of 350 tokens take longer
        assert 'outcome="cancelled"' in client.get("/metrics").text


def test_slow_readers_do_not_stop_the_others():
    with serving(endless=True) as (client, made):
        slow = [raw(client, body(i, max_tokens=200, stream=True)) for i in range(8)]
        start = time.monotonic()
        assert said(client.post(CHAT, json=body(0, max_tokens=4)))
        assert left(made, 60) and time.monotonic() - start < 60
        for connection in slow:
            connection.close()


def test_only_public_addresses_are_fetched():
    class Away(threading.Thread):
        """A server that sends a picture, or elsewhere."""

        def __init__(self, answer: bytes):
            super().__init__(daemon=True)
            self.socket, self.answer = socket.create_server(("127.0.0.1", 0)), answer
            self.url = f"http://127.0.0.1:{self.socket.getsockname()[1]}/a.png"
            self.start()

        def run(self):
            while True:
                connection, _ = self.socket.accept()
                connection.recv(4096)
                connection.sendall(self.answer)
                connection.close()

    png = base64.b64decode(url(0).partition(",")[2])
    here = Away(b"HTTP/1.1 200 OK\r\nConnection: close\r\n\r\n" + png)
    move = b"HTTP/1.1 302 Found\r\nLocation: %s\r\nConnection: close\r\n\r\n"
    inside = Away(move % b"http://169.254.169.254/latest")
    forever = Away(move % b"/b.png")
    file = Away(move % b"file:///etc/passwd")
    long = Away(b"HTTP/1.1 200 OK\r\nConnection: close\r\n\r\n" + b"a" * 60_000)
    limits = Limits(body=50_000)
    with pytest.raises(Refused, match="no public address"):
        pictures.raw(here.url, limits, fetch=True)
    for name in ("localhost", "[::1]", "[::ffff:127.0.0.1]", "0.0.0.0", "2130706433"):
        with pytest.raises(Refused, match=r"no public address|cannot be fetched"):
            pictures.raw(here.url.replace("127.0.0.1", name), limits, fetch=True)

    def ours(address: str) -> bool:
        return address == "127.0.0.1"

    assert pictures._fetched(here.url, limits, ours) == png
    for away, why in (
        (inside, "no public address"),
        (forever, "more than 3 redirects"),
        (file, "want http"),
        (long, "more than 50,000 bytes"),
    ):
        with pytest.raises(ValueError, match=why):
            pictures._fetched(away.url, limits, ours)


def test_a_host_that_drips_its_headers_is_left():
    """Each piece comes in time, and the whole never would."""
    host, stop = socket.create_server(("127.0.0.1", 0)), threading.Event()

    def drip():
        connection, _ = host.accept()
        with connection, contextlib.suppress(OSError):
            connection.sendall(b"HTTP/1.1 200 OK\r\nX-Slow: ")
            while not stop.wait(0.05):
                connection.sendall(b"a")

    threading.Thread(target=drip, daemon=True).start()
    at, start = f"http://127.0.0.1:{host.getsockname()[1]}/a.png", time.monotonic()
    try:
        with pytest.raises(ValueError, match="too long"):
            pictures._fetched(at, Limits(seconds=1), lambda address: True)
        assert time.monotonic() - start < 10  # it would drip for ever
    finally:
        stop.set()
        host.close()


def test_the_schema_names_the_refusals_and_no_others(embedded):
    schema = embedded.get("/openapi.json").json()
    told = schema["paths"]["/v1/chat/completions"]["post"]["responses"]
    assert {*told} == {"200", "4XX", "5XX"}


def test_a_body_that_comes_too_slowly_is_refused():
    with serving(limits=Limits(seconds=1)) as (client, _):
        slow = socket.create_connection((client.base_url.host, client.base_url.port), 10)
        with slow:
            head = f"POST {CHAT} HTTP/1.1\r\nHost: a\r\nContent-Length: 99\r\n\r\n{{"
            slow.sendall(head.encode())
            assert b"408" in slow.recv(100)


def test_rows_are_made_in_a_loop_and_told_from_any_thread():
    async def heard() -> str:
        row = Row(Wanted(([], ""), Plan(BARE, 1.0), 3, time.monotonic() + 5, stops=("end",)))
        words = {0: "a", 1: "b e", 2: "n"}
        for token in words:
            row.step(token, lambda ids: "".join(words[i] for i in ids), ())
        threading.Thread(target=row.tell).start()
        await row.news()
        return f"{row.shown}|{row.why}"

    assert asyncio.run(heard()) == "ab en|length"
