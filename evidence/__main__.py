"""The evidence behind a page of docs/: one command trains, measures and writes it.

    python -m evidence llavolta          every run that has no result yet, then the page
    python -m evidence llavolta --list   the runs, and which are done
    python -m evidence llavolta --page   the page alone, from the results there are

Results are one file a run, in results/<page>/; a run with a file is not repeated, so that a fresh clone goes
on where another stopped. Models and checkpoints stay in out/evidence/<page>/.
"""

from __future__ import annotations

import argparse
import os
import subprocess
import sys
from collections.abc import Sequence
from concurrent.futures import ThreadPoolExecutor

from evidence import focusllava, fovea, llava_stf, llavolta, making, meteor, pages, results
from evidence.protocol import ROOT
from foveate.keeping.held import HeldError

PAGES = {room.PAGE.name: room.PAGE for room in (llavolta, llava_stf, meteor, focusllava, fovea)}
# One thread to a run, and freed memory kept: on a CPU these small models spend half their time asking for it.
CALM = {
    "OMP_NUM_THREADS": "1",
    "TOKENIZERS_PARALLELISM": "false",
    "HF_HUB_OFFLINE": "1",
    "MALLOC_MMAP_THRESHOLD_": str(1 << 32),
    "MALLOC_TRIM_THRESHOLD_": str(1 << 33),
}


def main() -> None:
    """Do what the command line says."""
    parser = argparse.ArgumentParser(prog="python -m evidence", description=__doc__.splitlines()[0])
    parser.add_argument("page", choices=PAGES)
    parser.add_argument("--jobs", type=int, default=2, help="runs at once, of one thread each")
    parser.add_argument("--list", action="store_true", help="name the runs and stop")
    parser.add_argument("--page", action="store_true", dest="only_page", help="write it and stop")
    parser.add_argument("--run", help="make this one run, in this process")
    given = parser.parse_args()
    page = PAGES[given.page]
    runs = {run.name: run for run in page.runs()}
    if given.run and given.run not in runs:
        parser.error(f"--run {given.run}: there are {', '.join(runs)}")
    try:
        if given.run:
            making.make(page, runs[given.run])
            return
        missing = results.missing(page)
        if given.list:
            for name in runs:
                print("     " if name in missing else "done ", name)
            return
        if not given.only_page:
            all_of(page.name, missing, given.jobs)
        print(pages.write(page).relative_to(page.root))
    except (HeldError, pages.UnsupportedError) as error:
        sys.exit(str(error))


def all_of(page: str, names: Sequence[str], jobs: int) -> None:
    """Make these runs, so many at once, in order; a run that fails does not stop the others."""

    def one(name: str) -> bool:
        command = [sys.executable, "-m", "evidence", page, "--run", name]
        done = subprocess.run(command, env={**os.environ, **CALM}, cwd=ROOT, check=False)
        print(f"{name}: {'failed' if done.returncode else 'done'}", flush=True)
        return done.returncode == 0

    with ThreadPoolExecutor(jobs) as pool:
        try:
            done = list(pool.map(one, names))
        except KeyboardInterrupt:
            pool.shutdown(cancel_futures=True)
            raise
    failed = [name for name, well in zip(names, done, strict=True) if not well]
    if failed:
        sys.exit(f"failed: {', '.join(failed)}")


if __name__ == "__main__":
    main()
