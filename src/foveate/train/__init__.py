"""Training: a recipe, its data and a method become a trained model."""

from foveate.train.data import Collator, Problem, Record, Records, Turn, check
from foveate.train.progress import ProgressCallback
from foveate.train.recipe import Lora, Recipe
from foveate.train.recipes import RECIPES
from foveate.train.run import run

__all__ = [
    "RECIPES",
    "Collator",
    "Lora",
    "Problem",
    "ProgressCallback",
    "Recipe",
    "Record",
    "Records",
    "Turn",
    "check",
    "run",
]
