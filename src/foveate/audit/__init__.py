"""What a method changes that accuracy hides: the same questions with all tokens and with fewer.

figures    flips, calibration, yes and no, sentences, groups: numbers from answers that are there
maps       where kept tokens lie in the picture, and where the model looks
looking    what has to be asked for it beside the answers, batch by batch
document   one document of it all
page       the document as one page, with flipped questions pictured
"""

from foveate.audit.document import audit
from foveate.audit.figures import (
    aurc,
    balance,
    brier,
    calibration_error,
    changed,
    flips,
    lost,
    sentences,
)
from foveate.audit.looking import looks
from foveate.audit.maps import mapped
from foveate.audit.page import Flipped, page

__all__ = [
    "Flipped",
    "audit",
    "aurc",
    "balance",
    "brier",
    "calibration_error",
    "changed",
    "flips",
    "looks",
    "lost",
    "mapped",
    "page",
    "sentences",
]
