"""Where to look for good hyperparameters: written down once, searched in any manner.

    SPACE = Space(
        learning_rate=Float(0.01, 1.0, log=True),
        max_leaf_nodes=Int(4, 64, log=True),
        class_weight=Choice("balanced", "none"),
    )

`SPACE.grid(3)` and `SPACE.random(20, seed=97)` give points to try, as dicts; with
`SPACE.distributions()` an Optuna study asks for them one after the other. Reading a definition
loads no library, so it may stand at the top of a DAG file.
"""

import itertools
import math
import random
from collections.abc import Iterator
from dataclasses import dataclass
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from optuna.distributions import BaseDistribution

Value = float | int | str | bool
Point = dict[str, Value]
DIGITS = 6  # short enough to be read and typed again


@dataclass(frozen=True)
class Float:
    """Any number from low to high; with `log`, 0.01 to 0.1 is as wide as 0.1 to 1."""

    low: float
    high: float
    log: bool = False

    def __post_init__(self) -> None:
        """Refuse a range that holds nothing."""
        _check_range(self)

    def points(self, number: int) -> list[float]:
        """So many values, evenly spaced, with both ends."""
        return sorted({self._at(share) for share in _shares(number)})

    def draw(self, generator: random.Random) -> float:
        """Any of them, by chance."""
        return self._at(generator.random())

    def distribution(self) -> "BaseDistribution":
        """The same for Optuna."""
        from optuna.distributions import FloatDistribution

        return FloatDistribution(self.low, self.high, log=self.log)

    def _at(self, share: float) -> float:
        value = float(f"{_between(self.low, self.high, share, self.log):.{DIGITS}g}")
        return min(max(value, self.low), self.high)


@dataclass(frozen=True)
class Int:
    """Any whole number from low to high, both included."""

    low: int
    high: int
    log: bool = False

    def __post_init__(self) -> None:
        """Refuse a range that holds nothing."""
        _check_range(self)

    def points(self, number: int) -> list[int]:
        """So many values, evenly spaced, with both ends; fewer where there are not so many."""
        return sorted({
            round(_between(self.low, self.high, share, self.log)) for share in _shares(number)
        })

    def draw(self, generator: random.Random) -> int:
        """Any of them, by chance, the two ends as likely as what is between."""
        value = round(_between(self.low - 0.5, self.high + 0.5, generator.random(), self.log))
        return min(max(value, self.low), self.high)

    def distribution(self) -> "BaseDistribution":
        """The same for Optuna."""
        from optuna.distributions import IntDistribution

        return IntDistribution(self.low, self.high, log=self.log)


class Choice:
    """One of a few options that have no order."""

    def __init__(self, *options: Value) -> None:
        """Name the options, each once."""
        if not options or len(set(options)) < len(options):
            raise ValueError(f"a choice wants different options, at least one: got {options}")
        self.options = options

    def points(self, number: int) -> list[Value]:
        """All options, however many are asked for: none lies between two others."""
        return list(self.options)

    def draw(self, generator: random.Random) -> Value:
        """Any of them, by chance."""
        return generator.choice(self.options)

    def distribution(self) -> "BaseDistribution":
        """The same for Optuna."""
        from optuna.distributions import CategoricalDistribution

        return CategoricalDistribution(self.options)


class Space:
    """Hyperparameters by name, each with where to look."""

    def __init__(self, **dimensions: Float | Int | Choice) -> None:
        """Name the hyperparameters as the model calls them."""
        self.dimensions = dimensions

    def __iter__(self) -> Iterator[str]:
        """The names, in the order in which they were given."""
        return iter(self.dimensions)

    def grid(self, points: int) -> list[Point]:
        """Every combination of so many values of each number, and of all options of a choice."""
        values = [dimension.points(points) for dimension in self.dimensions.values()]
        return [dict(zip(self, chosen, strict=True)) for chosen in itertools.product(*values)]

    def random(self, number: int, seed: int) -> list[Point]:
        """So many random points; asked for more with the same seed, it begins with the same."""
        generator = random.Random(seed)  # noqa: S311 - chance that can be repeated, no secret
        return [
            {name: each.draw(generator) for name, each in self.dimensions.items()}
            for _ in range(number)
        ]

    def distributions(self) -> "dict[str, BaseDistribution]":
        """For Optuna's ask-and-tell: `study.ask(space.distributions())`."""
        return {name: each.distribution() for name, each in self.dimensions.items()}


def _check_range(given: Float | Int) -> None:
    if given.low > given.high:
        raise ValueError(f"{given} is empty: low must not be above high")
    if given.log and given.low <= 0:
        raise ValueError(f"{given} can't be logarithmic: low must be above 0")


def _between(low: float, high: float, share: float, log: bool) -> float:
    """The number at a share of the way, by difference or by ratio."""
    if log:
        return math.exp(math.log(low) + share * (math.log(high) - math.log(low)))
    return low + share * (high - low)


def _shares(number: int) -> list[float]:
    if number < 1:
        raise ValueError(f"a grid wants at least one point of each number, not {number}")
    return [0.5] if number == 1 else [index / (number - 1) for index in range(number)]
