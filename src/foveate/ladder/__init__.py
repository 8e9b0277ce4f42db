"""A budget for each question, with a bound on what it costs in answers: few tokens first, more in doubt.

rungs      what came of questions at every budget, and what a threshold would have made of them
saved      a calibrated ladder as a file
"""

from foveate.evaluate.bounds import proven, tail
from foveate.ladder.rungs import THRESHOLDS, Rungs, Walk, Way, calibrated
from foveate.ladder.saved import Ladder

__all__ = [
    "THRESHOLDS",
    "Ladder",
    "Rungs",
    "Walk",
    "Way",
    "calibrated",
    "proven",
    "tail",
]
