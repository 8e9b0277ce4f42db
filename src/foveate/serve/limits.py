"""What a server takes on, and how it says no."""

from __future__ import annotations

from dataclasses import dataclass, fields


@dataclass(frozen=True)
class Limits:
    """What a server takes on; each is an option of `foveate serve`. Raises ValueError below 1.

    queue    requests at once: being read, waiting, and being answered
    batch    requests that are answered together
    images   pictures of a request
    pixels   of all pictures of a request, before they are decoded
    prompt   tokens of a prompt, its pictures' among them
    answer   tokens of an answer
    seconds  for a request, from its first byte to its last token
    body     bytes of a request
    """

    queue: int = 128
    batch: int = 16
    images: int = 8
    pixels: int = 16_000_000
    prompt: int = 8192
    answer: int = 1024
    seconds: float = 120.0
    body: int = 32_000_000

    def __post_init__(self) -> None:
        for field in fields(self):
            if not getattr(self, field.name) >= 1:
                raise ValueError(f"{field.name}={getattr(self, field.name)}: want at least 1")


class Refused(Exception):  # noqa: N818
    """A request that gets no answer: an HTTP status, why, and which field of the request it is about."""

    def __init__(self, status: int, why: str, param: str | None = None):
        super().__init__(status, why, param)
        self.status, self.why, self.param = status, why, param

    def __str__(self) -> str:
        return self.why
