"""Training data: records from disk, checked, ordered, and made into batches."""

from foveate.train.data.checking import DataError, Problem, check, listed, refuse
from foveate.train.data.collate import Collator
from foveate.train.data.order import Grouped, Shuffled
from foveate.train.data.questions import by_question
from foveate.train.data.records import MalformedError, Record, Records, Turn

__all__ = [
    "Collator",
    "DataError",
    "Grouped",
    "MalformedError",
    "Problem",
    "Record",
    "Records",
    "Shuffled",
    "Turn",
    "by_question",
    "check",
    "listed",
    "refuse",
]
