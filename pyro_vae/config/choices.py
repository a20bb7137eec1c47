"""How choices are checked: each alone, and all with the chosen variants."""

import math
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass, fields
from functools import cache
from typing import Annotated, Any, Literal, get_args, get_origin, get_type_hints

from typing_extensions import Self

from pyro_vae.config.bounds import FLOAT32, Bound, exactly, show
from pyro_vae.config.tables import COUNTS, TABLES, resolve
from pyro_vae.config.variant import Variant
from pyro_vae.parts.distributions import MAX_STATES, check_num_states


@dataclass(frozen=True)
class Choices:
    """A group of choices, each checked alone and with the others."""

    def __post_init__(self) -> None:
        for field in fields(self):
            value = getattr(self, field.name)
            if isinstance(value, list):  # as JSON has it
                object.__setattr__(self, field.name, tuple(value))
        for name, bound in _bounds(type(self)).items():
            self._check(name, bound)
        for name in _names(type(self)):
            self._check(name, FLOAT32)
        self._check_variants()
        for name, rule in RULES:
            if name in _names(type(self)):
                rule(self)

    def _check_variants(self) -> None:
        """Refuses choices that do not fit the chosen variants."""
        chosen = dict(self._variants())
        for label, variant in chosen.items():
            for name, fitting in variant.goes_with.items():
                self._check(name, _one_of(fitting, f" with {label}"))
            for name, bound in variant.bounds.items():
                expected = f"{bound.expected} with {label}"
                self._check(name, Bound(expected, bound.holds))
        used = {name for row in chosen.values() for name in row.uses}
        for name in _users():
            # A group alone does not know what the others have chosen.
            if name not in used and self._knows_users(name):
                default = _default(type(self), name)
                expected = f"{default} (leave it out): it goes with "
                self._check(name, exactly(default), expected + _users()[name])

    def _variants(self) -> Iterator[tuple[str, Variant]]:
        """Yields the chosen rows, each labeled as `prior=laplace` is."""
        for choice, table in TABLES.items():
            name = getattr(self, choice, None)
            if name is None:
                continue
            if name == "auto":
                prior = getattr(self, "prior", None)
                if prior is None:
                    continue
                name = resolve(prior, choice, name)
            yield f"{choice}={name}", table[name]

    def _knows_users(self, name: str) -> bool:
        """Returns whether all choices that could use a choice are here."""
        return name in _names(type(self)) and all(
            choice in _names(type(self))
            for choice, table in TABLES.items()
            if any(name in row.uses for row in table.values())
        )

    def _check(
        self, name: str, bound: Bound, expected: str | None = None
    ) -> None:
        if name not in _names(type(self)):
            return
        value = getattr(self, name)
        if not bound.holds(value):
            raise ValueError(
                f"{name} is {show(value)}; expected "
                f"{expected or bound.expected}"
            )

    @classmethod
    def from_dict(cls, choices: Mapping[str, Any]) -> Self:
        """Makes a configuration from what `dataclasses.asdict` or JSON gave.

        Raises:
            ValueError: If a key is not a choice, or a value is not valid.
        """
        if unknown := sorted(set(choices) - set(_names(cls))):
            raise ValueError(
                f"unknown choices {', '.join(unknown)}; expected some of "
                f"{', '.join(sorted(_names(cls)))}"
            )
        return cls(**choices)


def part_of(config: Choices, group: type) -> dict[str, Any]:
    """Returns the choices of a configuration that belong to a group."""
    return {name: getattr(config, name) for name in _names(group)}


def find_short_warmup(config: Any) -> str | None:
    """Returns a warning about a warm-up that is longer than the run, or None.

    It is no refusal, for the run may be resumed with more epochs.

    Args:
        config: Its `beta`, `warmup` and `epochs`, as in a `FitConfig`.
    """
    if config.warmup <= config.epochs:
        return None
    weight = config.beta * config.epochs / config.warmup
    return (
        f"warmup is {config.warmup}, but the run ends after {config.epochs} "
        f"epochs, with the KL at {weight:.3g} in place of beta, {config.beta}; "
        "expected a warmup of at most epochs: choose more epochs, or resume "
        "with more"
    )


# Rules that a table cannot say; each stands at the choice that it concerns.
def _check_warmup(config: Any) -> None:
    if None in (config.early_stopping, config.epochs):
        return  # the number of epochs may come with the data
    if hasattr(config, "warmup"):
        expected = f"at most epochs, {config.epochs}, with early_stopping"
        bound = Bound(expected, lambda warmup: warmup <= config.epochs)
        config._check("warmup", bound)


def _check_validation(config: Any) -> None:
    if config.early_stopping is None:
        default = _default(type(config), "validation_fraction")
        expected = f"{default} (leave it out): it goes with early_stopping"
        config._check("validation_fraction", exactly(default), expected)


def _check_labeled(config: Any) -> None:
    if config.labeled is not None:
        expected = "amortized with labeled"
        if hasattr(config, "inference"):
            config._check("inference", Bound(expected, "amortized".__eq__))
    elif hasattr(config, "label_weight"):
        default = _default(type(config), "label_weight")
        expected = f"{default} (leave it out): it goes with labeled"
        config._check("label_weight", exactly(default), expected)


def _check_missing(config: Any) -> None:
    if config.missing and config.likelihood in COUNTS:
        expected = "learned with missing=True: a row with holes has no sum"
        config._check("library", Bound(expected, "learned".__eq__))


def _check_states(config: Any) -> None:
    gradient = resolve(config.prior, "gradient", config.gradient)
    if config.prior == "categorical" and gradient == "enumerated":
        # Before the power itself, which could have thousands of digits.
        digits = math.log10(config.num_components)
        expected = (
            f"at most {MAX_STATES} configurations to enumerate, which are "
            "num_components**num_variables: lower one of them, or sample with "
            "gradient=score-function-baseline or gradient=gumbel-softmax"
        )
        bound = Bound(expected, lambda number: number * digits < 18)
        config._check("num_variables", bound)
        check_num_states(config.num_components**config.num_variables)


def _check_static_binarization(config: Any) -> None:
    if config.static_binarization is None:
        return
    for name in ("dataset", "binarize"):
        default = _default(type(config), name)
        expected = f"{default} (leave it out) with static_binarization"
        allowed = ("auto", "mnist") if name == "dataset" else ("none",)
        config._check(name, Bound(expected, allowed.__contains__))


RULES: list[tuple[str, Callable[[Any], None]]] = [
    ("static_binarization", _check_static_binarization),
    ("early_stopping", _check_warmup),
    ("validation_fraction", _check_validation),
    ("missing", _check_missing),
    ("num_variables", _check_states),
    ("labeled", _check_labeled),
]


def _one_of(names: tuple[str, ...], condition: str) -> Bound:
    expected = names[0] if len(names) == 1 else f"one of {', '.join(names)}"
    return Bound(expected + condition, ("auto", *names).__contains__)


# A type checker takes a group of choices, but no `type`, to be unhashable.
def _names(group: type) -> tuple[str, ...]:
    return _collect_names(group)


def _bounds(group: type) -> dict[str, Bound]:
    return _collect_bounds(group)


@cache
def _collect_names(group: Any) -> tuple[str, ...]:
    return tuple(field.name for field in fields(group))


def _default(group: Any, name: str) -> Any:
    return next(f.default for f in fields(group) if f.name == name)


@cache
def _collect_bounds(group: Any) -> dict[str, Bound]:
    """Returns the bound that stands beside the type of each choice."""
    bounds = {}
    for name, hint in get_type_hints(group, include_extras=True).items():
        if get_origin(hint) is Annotated:
            bounds[name] = get_args(hint)[1]
        elif get_origin(hint) is Literal:
            names = get_args(hint)
            bounds[name] = Bound(
                f"one of {', '.join(names)}", names.__contains__
            )
    return bounds


@cache
def _users() -> dict[str, str]:
    """Returns, for each choice that not all variants use, those that do."""
    users: dict[str, str] = {}
    for choice, table in TABLES.items():
        used = {name for row in table.values() for name in row.uses}
        for name in used:
            fitting = [key for key, row in table.items() if name in row.uses]
            words = f"{choice}={', '.join(fitting)}"
            users[name] = " or ".join(
                [
                    *filter(None, [users.get(name)]),
                    " or ".join(words.rsplit(", ", 1)),
                ]
            )
    return users
