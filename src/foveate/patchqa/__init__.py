"""PatchQA: a procedural, versioned visual question answering task whose every pixel is known."""

from .prior import language_prior
from .scene import DIGIT_REGION, SIGN_REGION, Example, Picture, Question, Scene, Thing
from .task import VERSION, PatchQA
from .truth import asked_regions, patches_of
from .words import GROUPS, KINDS, vocabulary

__all__ = [
    "DIGIT_REGION",
    "GROUPS",
    "KINDS",
    "SIGN_REGION",
    "VERSION",
    "Example",
    "PatchQA",
    "Picture",
    "Question",
    "Scene",
    "Thing",
    "asked_regions",
    "language_prior",
    "patches_of",
    "vocabulary",
]
