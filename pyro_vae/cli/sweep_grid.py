"""A sweep's grid: flags of fit with several values, and the points of it."""

import difflib
import itertools
import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from types import UnionType
from typing import Annotated, Any, Union, get_args, get_origin

from pyro_vae.cli.fit import Flags as FitFlags
from pyro_vae.cli.flags import list_hints, to_flag
from pyro_vae.runs.files import FileError, read_json, write_json

GRID = "sweep.json"
EXAMPLE = "--prior normal laplace --seed 0 1 2"
# What a fit does to its folder, which a sweep decides.
NOT_SWEPT = ("resume", "overwrite", "output")

Value = tuple[str, ...]  # the words of one value
Grid = dict[str, list[Value]]  # the values of each flag


@dataclass(frozen=True)
class Point:
    """A point of a grid: one fit.

    Attributes:
        name: What its folder is called: the flags that have several values in
            the grid, with those of this point.
        flags: The words of each flag's value, by the flag's name.
    """

    name: str
    flags: Mapping[str, Value]

    def list_words(self) -> list[str]:
        """Returns its command line, of the flags of fit."""
        return [
            word
            for name, value in self.flags.items()
            if value != ("False",)
            for word in (
                to_flag(name),
                *(value if value != ("True",) else ()),
            )
        ]


def make_points(words: Sequence[str]) -> list[Point]:
    """Reads a grid, and returns all its points, the last flag's values first.

    Args:
        words: Flags of fit, each with one value or several: `--seed 0 1 2`.

    Raises:
        ValueError: If a flag is none of fit's, or has no value, if none has
            several, or if two points have one name.
    """
    grid = read_grid(words)
    swept = [name for name, values in grid.items() if len(values) > 1]
    if not swept:
        raise ValueError(
            "no flag has several values; expected a grid of some, such as "
            f"{EXAMPLE}"
        )
    points: dict[str, Point] = {}
    for values in itertools.product(*grid.values()):
        flags = dict(zip(grid, values, strict=True))
        name = ",".join(
            f"{flag.replace('_', '-')}={to_name(flags[flag])}" for flag in swept
        )
        if name in points:
            raise ValueError(
                f"two points of the grid are called {name!r}; expected "
                "different values, whose letters, digits, points and signs "
                "tell their folders apart"
            )
        points[name] = Point(name, flags)
    return list(points.values())


def read_grid(words: Sequence[str]) -> Grid:
    """Returns the values of each flag; that of a switch is True or False."""
    hints = {
        name: hint
        for name, hint in list_hints(FitFlags)
        if name not in NOT_SWEPT
    }
    grid: Grid = {}
    for flag, values in split(words):
        name = flag.removeprefix("--").replace("-", "_")
        if name in NOT_SWEPT:
            raise ValueError(
                f"{flag} is no flag of a sweep, which resumes what is half "
                "done, and leaves alone what is complete; expected none"
            )
        if name not in hints or not flag.startswith("--"):
            near = difflib.get_close_matches(name, hints, 1)
            hint = f"; did you mean {to_flag(near[0])}?" if near else ""
            raise ValueError(
                f"{flag!r} is no flag of fit; expected those that "
                f"'fit --help' explains, such as {EXAMPLE}{hint}"
            )
        if name in grid and not takes_several(hints[name]):
            raise ValueError(
                f"{flag} is given twice; expected all its values after one"
            )
        found = read_values(flag, values, hints[name])
        grid.setdefault(name, []).extend(found)
    return grid


def split(words: Sequence[str]) -> list[tuple[str, list[str]]]:
    """Returns each flag with the words that follow it."""
    found: list[tuple[str, list[str]]] = []
    for word in words:
        if word.startswith("--") or not found:
            flag, _, value = word.partition("=")
            found.append((flag, [value] if value else []))
        else:
            found[-1][1].append(word)
    return found


def read_values(flag: str, words: list[str], hint: Any) -> list[Value]:
    """Returns the values that the words after a flag are.

    Those of a flag that takes several words, as `--hidden` does, are one value:
    such a flag is given once for each.
    """
    if hint is bool:
        for word in words:
            if word not in ("True", "False"):
                raise ValueError(
                    f"{flag} is {word!r}; expected no value, or True and False"
                )
        words = words or ["True"]
    elif not words:
        raise ValueError(f"{flag} has no value; expected at least one")
    return [tuple(words)] if takes_several(hint) else [(w,) for w in words]


def takes_several(hint: Any) -> bool:
    """Returns whether a value of a type consists of several words."""
    if get_origin(hint) is Annotated:
        hint = get_args(hint)[0]
    if get_origin(hint) in (Union, UnionType):
        return any(takes_several(kind) for kind in get_args(hint))
    return get_origin(hint) is tuple


def to_name(value: Value) -> str:
    """Returns a value as a part of a folder's name."""
    return re.sub(r"[^\w.+-]+", "-", "-".join(value))


def read_points(output: Path) -> list[Point]:
    """Reads the points of the sweep in a folder.

    Raises:
        FileError: If the folder holds no sweep.
    """
    path = output / GRID
    if not path.exists():
        raise FileError(
            f"{output} holds no sweep: there is no file {path}; expected the "
            "--output of one"
        )
    points = read_json(path).get("points")
    try:
        return [
            Point(name, {flag: tuple(map(str, v)) for flag, v in flags.items()})
            for name, flags in dict(points or {}).items()
            if Path(name).name == name
        ]
    except (AttributeError, TypeError, ValueError):
        raise FileError(
            f"{path} lists no points; expected a file that a sweep wrote"
        ) from None


def check_same_sweep(output: Path, points: Sequence[Point]) -> None:
    """Refuses a folder of another sweep; one with fewer points is the same.

    Raises:
        ValueError: If a point of the sweep in the folder is missing here.
    """
    new = {point.name: point for point in points}
    for old in read_points(output) if (output / GRID).exists() else []:
        if new.get(old.name) != old:
            raise ValueError(
                f"{output} holds another sweep, which has the point "
                f"{old.name!r} with the flags {' '.join(old.list_words())}; "
                "expected the same grid, or one that contains it: name another "
                "--output"
            )


def keep_points(output: Path, points: Sequence[Point]) -> None:
    """Writes the points of a sweep into its folder, which is made."""
    output.mkdir(parents=True, exist_ok=True)
    content = {point.name: dict(point.flags) for point in points}
    write_json(output / GRID, {"points": content})
