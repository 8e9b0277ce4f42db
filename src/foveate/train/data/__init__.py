"""Training data: records from disk, checked, ordered, and made into batches."""

from foveate.chat import Record, Turn
from foveate.records.checking import DataError, Problem, check, listed, refuse
from foveate.records.conversations import Records
from foveate.records.rows import MalformedError
from foveate.train.data.collate import Collator
from foveate.train.data.order import Grouped, Shuffled
from foveate.train.data.questions import by_question

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
