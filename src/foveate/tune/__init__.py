"""Which method, at which layer, with which budget: found on questions without labels, shown on others.

search     all candidates on few questions, the better half on twice as many, and so on
target     what is wanted of the one that is chosen, and what is shown of it
"""

from foveate.tune.search import Asked, front, search, spans
from foveate.tune.target import Target, shown

__all__ = ["Asked", "Target", "front", "search", "shown", "spans"]
