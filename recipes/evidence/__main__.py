"""The evidence behind a page of docs/: one command trains, measures and writes it.

    python recipes/evidence llavolta              every run that has no result yet, then the page
    python recipes/evidence llavolta --list       the runs, and which are done
    python recipes/evidence llavolta --page       the page alone, from the results there are

Results are one file a run, in results/<page>/; a run with a file is not repeated, so that a fresh
clone goes on where another stopped. Models and checkpoints stay in out/evidence/<page>/.
"""

from __future__ import annotations

import argparse
import os
import subprocess
import sys
from pathlib import Path

import focusllava
import focusllava_page
import found
import llava_stf
import llava_stf_page
import llavolta
import llavolta_page
import making
import meteor
import meteor_page

from foveate.keeping.held import HeldError

HERE = Path(__file__).parent
PAGES = {
    "llavolta": (llavolta.PAGE, llavolta_page.write),
    "llava_stf": (llava_stf.PAGE, llava_stf_page.write),
    "meteor": (meteor.PAGE, meteor_page.write),
    "focusllava": (focusllava.PAGE, focusllava_page.write),
}
# One thread to a run, and freed memory kept: on a CPU these small models spend half their time asking for it.
CALM = {
    "OMP_NUM_THREADS": "1",
    "TOKENIZERS_PARALLELISM": "false",
    "HF_HUB_OFFLINE": "1",
    "MALLOC_MMAP_THRESHOLD_": str(1 << 32),
    "MALLOC_TRIM_THRESHOLD_": str(1 << 33),
}


def main() -> None:
    parser = argparse.ArgumentParser(prog="recipes/evidence", description=__doc__.splitlines()[0])
    parser.add_argument("page", choices=PAGES)
    parser.add_argument("--jobs", type=int, default=2, help="runs at once, of one thread each")
    parser.add_argument("--list", action="store_true", help="name the runs and stop")
    parser.add_argument(
        "--page", action="store_true", dest="only_page", help="write the page and stop"
    )
    parser.add_argument("--run", help="make this one run, in this process")
    given = parser.parse_args()
    page, write_page = PAGES[given.page]
    runs, missing = {run.name: run for run in page.runs}, found.missing(page)
    if given.run:
        try:
            making.make(page, runs[given.run])
        except HeldError as error:
            sys.exit(str(error))
    elif given.list:
        for name in runs:
            print("     " if name in missing else "done ", name)
    else:
        if not given.only_page:
            all_of(page.name, missing, given.jobs)
        print(write_page())


def all_of(page: str, names: list[str], jobs: int) -> None:
    """Make these runs, so many at once, in order; a run that fails does not stop the others."""
    waiting, running, failed = list(names), {}, []
    while waiting or running:
        while waiting and len(running) < jobs:
            name = waiting.pop(0)
            command = [sys.executable, str(HERE), page, "--run", name]
            running[subprocess.Popen(command, env={**os.environ, **CALM})] = name
        pid, status = os.wait()
        process = next(p for p in running if p.pid == pid)
        process.returncode = os.waitstatus_to_exitcode(status)
        name = running.pop(process)
        print(
            f"{name}: {'failed' if process.returncode else 'done'}, {len(waiting)} waiting",
            flush=True,
        )
        failed += [name] if process.returncode else []
    if failed:
        sys.exit(f"failed: {', '.join(failed)}")


if __name__ == "__main__":
    main()
