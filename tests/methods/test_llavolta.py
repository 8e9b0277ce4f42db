"""LLaVolta's schedules, arXiv:2406.20092."""

import pytest

from foveate import Identity, Pool, Stages, llavolta
from foveate.methods.llavolta import SCHEDULES

PUBLISHED = {
    "two_stage": "(2,8) → none",
    "three_stage_deeper": "(2,8) → (16,8) → none",
    "three_stage_wider": "(2,8) → (2,2) → none",
    "four_stage_wider_deeper": "(2,8) → (2,2) → (16,2) → none",
    "four_stage_deeper_wider": "(2,8) → (16,8) → (16,2) → none",
    "last_stage": "(2,16) → (16,16) → (16,4)",
    "heavy": "(2,8)",
    "light": "(16,8)",
}


def said(acting):
    """As the paper writes a stage."""
    arguments = acting.arguments()
    return f"({arguments['layer']},{arguments['stride']})" if arguments else "none"


@pytest.mark.parametrize("schedule", PUBLISHED)
def test_the_published_stages_take_equal_shares(schedule):
    method, stages = llavolta(schedule), PUBLISHED[schedule].split(" → ")
    count = len(stages)
    for n, stage in enumerate(stages):
        for progress in (n / count, (n + 0.5) / count, (n + 1) / count - 1e-9):
            assert said(method.at(progress)) == stage
    assert said(method.at(1.0)) == stages[-1]
    assert method.scheduled == (count > 1)


def test_all_eight_are_there():
    assert SCHEDULES.keys() == PUBLISHED.keys()
    with pytest.raises(ValueError, match="schedule='five_stage': want one of two_stage"):
        llavolta("five_stage")


@pytest.mark.parametrize(
    ("layers", "want"),
    [(32, [2, 16, 16]), (40, [3, 20, 20]), (5, [1, 3, 3]), (4, [1, 2, 2]), (2, [1, 1, 1])],
)
def test_layers_scale_and_stay_inside_the_model(layers, want):
    stages = llavolta("last_stage", layers=layers).every()
    assert [part.site.layer for part in stages] == want
    assert [part.stride for part in stages] == [16, 16, 4]


def test_a_model_without_a_layer_one_has_no_inside():
    for wrong in (1, 0, True, 8.0, "32"):
        with pytest.raises(ValueError, match="layers="):
            llavolta(layers=wrong)


def test_a_budget_is_what_the_last_stage_keeps():
    for schedule, keep in (("two_stage", 1.0), ("last_stage", 0.25), ("heavy", 0.125)):
        assert repr(llavolta(schedule, keep=keep)) == repr(llavolta(schedule))
    for keep in (0.125, 1.0, 144):
        want = (
            r"last_stage keeps 0\.25 at inference \(0\.125: heavy, light; 0\.25: last_stage; 1: two"
        )
        with pytest.raises(ValueError, match=want):
            llavolta(keep=keep)
    with pytest.raises(ValueError, match="keep=0: want an int"):
        llavolta(keep=0)


def test_one_stage_needs_no_schedule():
    assert repr(llavolta("heavy")) == repr(Pool(8, layer=2))
    assert isinstance(llavolta("two_stage"), Stages)
    assert isinstance(llavolta("two_stage").at(1.0), Identity)
