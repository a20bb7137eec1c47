"""A grid of fits: which values each flag of fit takes, and their product."""

import contextlib
import io
import itertools
import re
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, is_dataclass
from pathlib import Path
from typing import get_args, get_origin, get_type_hints

from pyro_vae.cli import fit
from pyro_vae.cli.flags import (
    CommandLine,
    RefusedError,
    list_flags,
    to_flag,
)
from pyro_vae.config import Config

OF_THE_SWEEP = ("--output", "--resume", "--overwrite")
MOST = 10_000  # points

Axis = tuple[str, list[list[str]]]  # a flag, and the words of each value


@dataclass(frozen=True)
class Point:
    """One fit of a grid.

    Attributes:
        name: What tells it from the others: `prior-laplace_seed-0`.
        folder: The folder of its run.
        words: The words after `fit`, without the folder.
        config: The choices that they make.
    """

    name: str
    folder: Path
    words: tuple[str, ...]
    config: Config

    @property
    def log(self) -> Path:
        """The file of what the fit prints, beside its folder."""
        return self.folder.with_name(f"{self.name}.log")


def read_grid(words: Sequence[str], output: Path) -> list[Point]:
    """Returns the points of the grid that flags of fit describe.

    Every value of a flag is combined with all values of the others. A flag
    whose value is several words, such as `--hidden 256 128`, is given once for
    each value.

    Args:
        words: The flags of fit, with their values.
        output: The folder for the runs.

    Raises:
        ValueError: If a flag is not one of fit, a choice is refused, or two
            points have one name.
    """
    axes = read_axes(words)
    count = 1
    for _, values in axes:
        count *= len(values)
    if count > MOST:
        raise ValueError(
            f"the grid has {count:,} points; expected at most {MOST:,}: sweep "
            "over fewer values"
        )
    points: dict[str, Point] = {}
    for chosen in itertools.product(*(values for _, values in axes)):
        pairs = list(zip(axes, chosen, strict=True))
        name = make_name(
            [(flag, value) for (flag, all_), value in pairs if len(all_) > 1]
        )
        if name in points:
            raise ValueError(
                f"two points of the grid are called {name}; expected "
                "different values of a flag: leave one out"
            )
        given = tuple(
            word for (flag, _), value in pairs for word in (flag, *value)
        )
        points[name] = Point(name, output / name, given, read_config(given))
    return list(points.values())


def read_axes(words: Sequence[str]) -> list[Axis]:
    """Returns the flags of fit among words, each with its values.

    Raises:
        ValueError: If a word belongs to no flag, or a flag is not one of fit.
    """
    several = {to_flag(name) for name in _list_of_several(fit.Flags)}
    known = {to_flag(name) for name in list_flags(fit.Flags)}
    axes: dict[str, list[list[str]]] = {}
    for flag, value in _split(words):
        if flag not in known or flag in OF_THE_SWEEP:
            raise ValueError(
                f"{flag} was given; expected flags of the sweep, or of fit "
                f"without {', '.join(OF_THE_SWEEP)}"
            )
        values = [value] if flag in several else [[word] for word in value]
        axes.setdefault(flag, []).extend(values or [[]])
    return list(axes.items())


def _split(words: Sequence[str]) -> Iterator[tuple[str, list[str]]]:
    """Yields each flag with the words that follow it."""
    flag, value = "", list[str]()
    for word in words:
        if re.match(r"--[a-z]", word):
            if flag:
                yield flag, value
            flag, _, first = word.replace("_", "-").partition("=")
            value = [word.partition("=")[2]] if first else []
        elif not flag:
            raise ValueError(
                f"{word!r} was given; expected flags with their values, such "
                "as --prior normal laplace"
            )
        else:
            value.append(word)
    if flag:
        yield flag, value


def _list_of_several(kind: type) -> Iterator[str]:
    """Yields the names of the flags whose value is several words."""
    for name, hint in get_type_hints(kind).items():
        if is_dataclass(hint) and isinstance(hint, type):
            yield from _list_of_several(hint)
        elif any(get_origin(part) is tuple for part in (hint, *get_args(hint))):
            yield name


def make_name(values: Sequence[tuple[str, Sequence[str]]]) -> str:
    """Returns a folder's name for the values that tell a point from others."""
    parts = ("-".join([flag.lstrip("-"), *value]) for flag, value in values)
    return re.sub(r"[^\w.=+-]+", "-", "_".join(parts)) or "run"


def read_config(words: Sequence[str]) -> Config:
    """Returns the choices that flags of fit make.

    Raises:
        ValueError: If one is refused.
    """
    command = CommandLine(fit.Flags, fit.__doc__, words, "fit")
    try:
        with contextlib.redirect_stdout(io.StringIO()):  # a preset's words
            return fit.read_flags(command)[1]
    except (RefusedError, ValueError) as error:
        raise ValueError(command.in_flags(error)) from None
