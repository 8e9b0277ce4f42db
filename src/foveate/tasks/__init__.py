"""What models can be asked: foveate's tasks by name, people's own questions, and how answers are scored.

named     the tasks that come with foveate
own       questions from a file, a folder of `datasets` or the Hub
metrics   scores by name, each with its source
"""

from foveate.tasks.metrics import METRICS, Metric
from foveate.tasks.named import TASKS, Questions, check, examples, records

__all__ = ["METRICS", "TASKS", "Metric", "Questions", "check", "examples", "records"]
