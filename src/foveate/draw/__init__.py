"""Pictures of what was kept, of what a token carries, and of what steps went by."""

from foveate.draw.sheet import draw, heatmaps, panels

__all__ = ["draw", "heatmaps", "panels"]
