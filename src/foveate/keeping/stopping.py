"""Ctrl-C and SIGTERM: whatever runs ends in order and with one line, however often it is told."""

from __future__ import annotations

import math
import signal
import sys
import threading
import time
from typing import Any

STOPPED = "stopped; what was finished is kept"
GRACE = 3.0  # seconds in which a second signal is the first one again: things are being closed
ALARM = getattr(signal, "SIGALRM", None)  # Windows has none
AGAIN = 0.02  # seconds until an interrupt is repeated that Python had to swallow


def heed() -> None:
    """Turn both signals into KeyboardInterrupt from now on, unless the process was told to ignore them.

    Within GRACE seconds only the first one counts, so that nothing is interrupted while it closes. One that
    fell where Python lets no error out, such as a destructor, comes again a moment later.
    """
    if threading.current_thread() is not threading.main_thread():
        return  # signals are the main thread's
    last = -math.inf

    def stop(number: int, frame: Any) -> None:
        nonlocal last
        if time.monotonic() - last > GRACE or number == ALARM:
            last = time.monotonic()
            raise KeyboardInterrupt

    def swallowed(what: Any) -> None:
        if what.exc_type is KeyboardInterrupt and ALARM is not None:
            signal.signal(ALARM, stop)
            signal.setitimer(signal.ITIMER_REAL, AGAIN)
        else:
            sys.__unraisablehook__(what)

    sys.unraisablehook = swallowed
    for number in (signal.SIGINT, signal.SIGTERM):
        if signal.getsignal(number) is not signal.SIG_IGN:
            signal.signal(number, stop)


def ignore() -> None:
    """Let neither signal disturb a process that is at its end."""
    if threading.current_thread() is threading.main_thread():
        for number in {signal.SIGINT, signal.SIGTERM, ALARM} - {None}:
            signal.signal(number, signal.SIG_IGN)
