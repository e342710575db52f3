"""One definition of a search space gives a grid, random points and Optuna's distributions."""

import statistics
import subprocess
import sys

import pytest

from include.training.search_space import Choice, Float, Int, Space

SPACE = Space(
    rate=Float(0.001, 1.0, log=True),
    share=Float(0.0, 1.0),
    leaves=Int(2, 64, log=True),
    depth=Int(1, 3),
    weight=Choice("balanced", "none"),
)


def test_a_grid_has_every_combination_with_both_ends():
    grid = SPACE.grid(3)
    assert len(grid) == 3 * 3 * 3 * 3 * 2
    assert len({tuple(point.values()) for point in grid}) == len(grid)
    assert {point["share"] for point in grid} == {0.0, 0.5, 1.0}
    assert {point["weight"] for point in grid} == {"balanced", "none"}


def test_a_logarithmic_number_is_spaced_by_ratio_and_can_be_read():
    assert Float(0.001, 1.0, log=True).points(4) == [0.001, 0.01, 0.1, 1.0]
    assert Int(2, 64, log=True).points(6) == [2, 4, 8, 16, 32, 64]


def test_one_point_is_the_middle_and_whole_numbers_are_never_tried_twice():
    assert Float(0.01, 1.0, log=True).points(1) == [0.1]
    assert Int(1, 3).points(10) == [1, 2, 3]
    assert Float(0.5, 0.5).points(3) == [0.5]


def test_random_points_are_the_same_for_a_seed_and_others_for_another():
    twenty = SPACE.random(20, seed=97)
    assert SPACE.random(5, seed=97) == twenty[:5]
    assert SPACE.random(20, seed=98) != twenty


def test_random_points_lie_inside_and_are_spread_by_scale():
    points = SPACE.random(2000, seed=97)
    assert all(0.001 <= point["rate"] <= 1.0 for point in points)
    assert statistics.median(p["rate"] for p in points) == pytest.approx(0.0316, rel=0.25)
    assert statistics.median(p["share"] for p in points) == pytest.approx(0.5, rel=0.1)
    assert {point["depth"] for point in points} == {1, 2, 3}
    assert {point["weight"] for point in points} == {"balanced", "none"}
    assert all(isinstance(point["leaves"], int) for point in points)


def test_whole_numbers_are_equally_likely_at_the_ends_and_in_the_middle():
    drawn = [point["depth"] for point in Space(depth=Int(1, 3)).random(3000, seed=97)]
    assert all(900 < drawn.count(depth) < 1100 for depth in (1, 2, 3))


def test_optuna_agrees_that_every_point_belongs_to_the_space():
    import optuna

    distributions = SPACE.distributions()
    assert list(distributions) == list(SPACE)
    for point in SPACE.grid(3) + SPACE.random(50, seed=97):
        optuna.trial.create_trial(params=point, distributions=distributions, value=0.0)
    outside = point | {"rate": 2.0}
    with pytest.raises(ValueError, match="isn't contained in the distribution"):
        optuna.trial.create_trial(params=outside, distributions=distributions, value=0.0)


def test_an_optuna_study_asks_for_points_of_the_space():
    import optuna

    optuna.logging.set_verbosity(optuna.logging.WARNING)
    study = optuna.create_study(sampler=optuna.samplers.RandomSampler(seed=97))
    asked = study.ask(SPACE.distributions()).params
    assert set(asked) == set(SPACE)
    assert 0.001 <= asked["rate"] <= 1.0


@pytest.mark.parametrize(
    ("wrong", "reason"),
    [
        (lambda: Float(2, 1), "low must not be above high"),
        (lambda: Int(0, 8, log=True), "low must be above 0"),
        (lambda: Choice(), "at least one"),
        (lambda: Choice("a", "a"), "different options"),
        (lambda: SPACE.grid(0), "at least one point"),
    ],
)
def test_a_space_that_holds_nothing_is_refused_with_the_reason(wrong, reason):
    with pytest.raises(ValueError, match=reason):
        wrong()


def test_reading_a_definition_loads_no_library():
    look = "import sys; import include.training.search_space; print(*sys.modules)"
    done = subprocess.run([sys.executable, "-c", look], capture_output=True, text=True, check=True)
    assert not {"optuna", "numpy", "airflow"} & set(done.stdout.split())
