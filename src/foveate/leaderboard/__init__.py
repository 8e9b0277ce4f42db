"""The leaderboard: every method on the same questions at the same budgets, measured, on one page.

runs      what is to be run: methods × budgets × seeds × tasks, and what a run depends on
made      making what is missing, one file a run
figures   from files to rows: accuracy, what downsampling loses, flips, costs
page      the pages: one to read, one to sort
"""

from foveate.leaderboard.figures import rows
from foveate.leaderboard.made import make, missing
from foveate.leaderboard.page import write
from foveate.leaderboard.runs import Entry, entries

__all__ = ["Entry", "entries", "make", "missing", "rows", "write"]
