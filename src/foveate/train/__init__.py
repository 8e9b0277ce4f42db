"""Training: a recipe, its data and a method become a trained model."""

from foveate.train.data import (
    Collator,
    DataError,
    Problem,
    Record,
    Records,
    Turn,
    by_question,
    check,
)
from foveate.train.progress import ProgressCallback
from foveate.train.recipe import Lora, Recipe
from foveate.train.recipes import RECIPES
from foveate.train.run import run
from foveate.train.trainer import DivergedError

__all__ = [
    "RECIPES",
    "Collator",
    "DataError",
    "DivergedError",
    "Lora",
    "Problem",
    "ProgressCallback",
    "Recipe",
    "Record",
    "Records",
    "Turn",
    "by_question",
    "check",
    "run",
]
