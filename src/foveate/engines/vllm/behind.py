"""A vLLM that only foveate's own server talks to: started, waited for, watched and stopped."""

from __future__ import annotations

import contextlib
import os
import signal
import subprocess
import tempfile
import threading
import time
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path

import httpx

from foveate.engines.vllm.command import SOCKET

ADDRESS = "http://vllm"  # of the socket: a name, and no network
PAUSE = 0.2  # seconds between two looks whether it answers
GRACE = 20.0  # seconds to end in order
# Reads until whoever holds the other end is gone, however that came about; then a group of processes ends.
MOURNER = ("sh", "-c", "cat > /dev/null; kill -s KILL -- -$0")


class Ended(Exception):  # noqa: N818
    """vLLM has ended, and nobody told it to."""


class Behind:
    """A vLLM as it runs, the file where it listens, and the tokens of prompt and answer that it takes."""

    def __init__(self, words: Sequence[str], socket: Path):
        self.socket = socket
        own = {name: value for name, value in os.environ.items() if name != "VLLM_API_KEY"}
        # What it says is no answer of ours; and a Ctrl-C is for the server in front, which then stops it.
        self.process = subprocess.Popen(words, stdout=2, start_new_session=True, env=own)
        # A server in front that is killed stops nothing, and vLLM would hold its memory on and on.
        mourner = (*MOURNER, str(self.process.pid))
        self.mourner = subprocess.Popen(mourner, stdin=subprocess.PIPE, start_new_session=True)

    def wait(self) -> None:
        """Until it answers. Raises Ended where it ends instead."""
        way = httpx.HTTPTransport(uds=str(self.socket))
        with httpx.Client(transport=way, base_url=ADDRESS) as client:
            while not (self.socket.exists() and _answers(client)):
                self.check()
                time.sleep(PAUSE)
            self.room: int = client.get("/v1/models").json()["data"][0]["max_model_len"]

    def watch(self, ended: Callable[[], None]) -> None:
        """Call `ended`, from a thread of its own, once it has."""

        def wait() -> None:
            self.process.wait()
            ended()

        threading.Thread(target=wait, name="vllm", daemon=True).start()

    def check(self) -> None:
        """Raise Ended where it has."""
        if (code := self.process.poll()) is not None:
            raise Ended(f"vLLM has ended with exit code {code}; what it said is above")

    def stop(self) -> None:
        """End it, in order if that goes, and all that it started."""
        self.process.terminate()
        with contextlib.suppress(subprocess.TimeoutExpired):
            self.process.wait(GRACE)
        with contextlib.suppress(ProcessLookupError):
            os.killpg(self.process.pid, signal.SIGKILL)
        self.process.wait()
        self.mourner.kill()
        self.mourner.communicate()


def _answers(client: httpx.Client) -> bool:
    try:
        return client.get("/health").status_code == 200
    except httpx.TransportError:
        return False


@contextmanager
def running(words: Callable[[Path], Sequence[str]]) -> Iterator[Behind]:
    """Inside, a vLLM answers. words: its command, for a folder with room for a socket and links.

    Raises Ended where it ends by itself, before it answers or later.
    """
    with tempfile.TemporaryDirectory(prefix="foveate-") as folder:
        made = Behind(words(Path(folder)), Path(folder) / SOCKET)
        try:
            made.wait()
            yield made
            made.check()
        finally:
            made.stop()
