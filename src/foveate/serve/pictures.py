"""A request's pictures: out of data URLs, or fetched where that is allowed. No file is ever opened."""

from __future__ import annotations

import base64
import binascii
import http.client
import io
import ipaddress
import socket
import ssl
import threading
import time
from collections.abc import Callable, Iterator
from contextlib import closing, contextmanager, suppress
from urllib.parse import SplitResult, unquote_to_bytes, urljoin, urlsplit

from PIL import Image

from foveate.chat.pictures import TOO_MANY, PictureError, read
from foveate.serve.limits import Limits, Refused

MOVES = 3  # redirects that are followed
PIECE = 65_536  # bytes
UNICAST = ipaddress.IPv6Network("2000::/3")
SHOWN = 80  # letters of a URL in an error


def raw(url: str, limits: Limits, fetch: bool) -> bytes:
    """The bytes of a picture. Raises Refused for other places than data URLs, and http(s) with fetch."""
    scheme = url[:8].partition(":")[0].lower()
    if scheme == "data":
        return _data(url)
    if scheme not in ("http", "https"):
        raise _wrong(f"{url[:SHOWN]!r}: want a data URL, data:image/png;base64,…")
    if not fetch:
        raise _wrong(
            f"{url[:SHOWN]}: this server fetches no pictures (--allow-fetch): want data:image/png;base64,…"
        )
    try:
        return _fetched(url, limits, _public)
    except (OSError, http.client.HTTPException, ValueError) as error:
        raise _wrong(f"{url[:SHOWN]} cannot be fetched: {error}") from error


def opened(data: bytes, limits: Limits, left: int) -> Image.Image:
    """The picture in these bytes, upright and in RGB. Its size is looked at before it is decoded.

    left: pixels that it may have, beside the other pictures of its request. Raises Refused, 413 for more.
    """
    try:
        with Image.open(io.BytesIO(data)) as image:
            if image.width * image.height > left:
                raise _large(f"{image.width} x {image.height}", limits)
            return read(image)
    except PictureError as error:
        raise _wrong(str(error)) from error
    except TOO_MANY as error:
        raise _large("far too many", limits) from error
    except (OSError, ValueError, SyntaxError) as error:
        raise _wrong("an image that cannot be read: want PNG, JPEG, WebP, GIF, …") from error


def _data(url: str) -> bytes:
    head, comma, body = url.partition(",")
    if not comma:
        raise _wrong("a data URL without a comma: want data:image/png;base64,…")
    if not head.lower().endswith(";base64"):
        return unquote_to_bytes(body)
    try:
        return base64.b64decode("".join(body.split()), validate=True)  # lines, as tools write it
    except (binascii.Error, ValueError) as error:
        raise _wrong(f"a data URL whose base64 is broken: {error}") from error


def _fetched(url: str, limits: Limits, allowed: Callable[[str], bool]) -> bytes:
    """What a URL holds. Every address on the way is looked at before it is connected to, and then used.

    allowed: whether an address may be connected to. Raises OSError, HTTPException and ValueError.
    """
    end = time.monotonic() + min(limits.seconds, 20)
    for _ in range(MOVES + 1):
        parts = urlsplit(url)
        if parts.scheme not in ("http", "https") or not parts.hostname:
            raise ValueError("want http or https")
        with closing(_connected(parts, end, allowed)) as connection, _ending(connection.sock, end):
            path = parts._replace(scheme="", netloc="", fragment="").geturl() or "/"
            connection.request("GET", path, headers={"Accept": "image/*", "User-Agent": "foveate"})
            answer = connection.getresponse()
            if answer.status in (301, 302, 303, 307, 308):
                url = urljoin(url, answer.headers.get("Location", ""))
                continue
            if answer.status != 200:
                raise ValueError(f"status {answer.status}")
            return _body(answer, limits.body, end)
    raise ValueError(f"more than {MOVES} redirects")


def _connected(
    parts: SplitResult, end: float, allowed: Callable[[str], bool]
) -> http.client.HTTPConnection:
    """A connection to the host of a URL, at an address that is allowed."""
    host, port = parts.hostname or "", parts.port or {"http": 80, "https": 443}[parts.scheme]
    found = socket.getaddrinfo(host, port, type=socket.SOCK_STREAM)
    addresses = [str(entry[4][0]) for entry in found]
    if not all(map(allowed, addresses)):
        raise ValueError(f"{host} is no public address")
    plain = socket.create_connection((addresses[0], port), max(end - time.monotonic(), 0.1))
    connection = http.client.HTTPConnection(host, port)
    connection.sock = plain
    if parts.scheme == "https":
        connection.sock = ssl.create_default_context().wrap_socket(plain, server_hostname=host)
    return connection


@contextmanager
def _ending(open_: socket.socket, end: float) -> Iterator[None]:
    """Inside, a connection ends at this time, whatever it is waited for: a host may drip its headers."""

    def hang_up() -> None:
        with suppress(OSError):  # it has ended by itself
            open_.shutdown(socket.SHUT_RDWR)

    timer = threading.Timer(max(end - time.monotonic(), 0), hang_up)
    timer.daemon = True
    timer.start()
    try:
        yield
    finally:
        timer.cancel()


def _body(answer: http.client.HTTPResponse, most: int, end: float) -> bytes:
    data = bytearray()
    while piece := answer.read1(PIECE):
        data += piece
        if len(data) > most:
            raise ValueError(f"more than {most:,} bytes")
    if time.monotonic() > end:  # and it was hung up
        raise ValueError("it takes too long")
    return bytes(data)


def _public(address: str) -> bool:
    found = ipaddress.ip_address(address.partition("%")[0])
    if isinstance(found, ipaddress.IPv6Address):
        # Beside plain ones there are those that a router turns into IPv4, private addresses too.
        plain = found in UNICAST and not (found.sixtofour or found.teredo)
        found = found.ipv4_mapped or (found if plain else None)
    return found is not None and found.is_global and not found.is_multicast


def _large(size: str, limits: Limits) -> Refused:
    why = f"a picture of {size} pixels: want at most {limits.pixels:,} in all pictures of a request"
    return Refused(413, why, "messages")


def _wrong(why: str) -> Refused:
    return Refused(400, why, "messages")
