"""Which method, at which layer, with which budget: found on questions without labels, shown on others.

search     all candidates on few questions, the better half on twice as many, and so on
target     what is wanted of the one that is chosen, and what is shown of it
found      both together, on halves of the questions, and the setting that comes of it
"""

from foveate.tune.found import Tuned, tuned
from foveate.tune.search import Asked, front, search, spans
from foveate.tune.target import Target, shown

__all__ = ["Asked", "Target", "Tuned", "front", "search", "shown", "spans", "tuned"]
