"""What a method breaks: its answers beside those of the same model with all tokens, question by question.

figures    flips, calibration, yes and no, sentences: of answers that are there
beside     what is asked for them: the full model's words recited, a second turn, where one looks
audited    all of it in one document
page       the document as one page
"""

from foveate.audit.audited import audit
from foveate.audit.figures import calibration, changed, lost, yes
from foveate.audit.page import page

__all__ = ["audit", "calibration", "changed", "lost", "page", "yes"]
