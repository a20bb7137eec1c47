"""Flags: read from a dataclass, explained by its docstring, named in errors."""

import re
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import (
    MISSING,
    Field,
    dataclass,
    field,
    fields,
    is_dataclass,
)
from functools import partial
from types import NoneType
from typing import Annotated, Any, Generic, TypeVar, get_args, get_type_hints

import docstring_parser
import tyro
from tyro.constructors import (
    MISSING_NONPROP,
    ConstructorRegistry,
    PrimitiveConstructorSpec,
    PrimitiveTypeInfo,
    StructConstructorSpec,
    StructFieldSpec,
    StructTypeInfo,
)

from pyro_vae.cli.interrupt import Interrupt

Flags = TypeVar("Flags")
Some = TypeVar("Some")

MARKERS = (tyro.conf.FlagCreatePairsOff, tyro.conf.OmitArgPrefixes)


class RefusedError(Exception):
    """A flag's value was refused; tyro would frame a ValueError."""


@dataclass(frozen=True)
class CommandLine(Generic[Flags]):
    """What was typed, and when it is to end.

    Attributes:
        kind: The dataclass of the command's flags, whose `Attributes` sections
            explain them.
        about: What the command does, for its help.
        words: The words after the command.
        program: The words before them, to be typed again.
        interrupt: What Ctrl-C does, and whether it was typed.
    """

    kind: type[Flags]
    about: str | None
    words: Sequence[str]
    program: str
    interrupt: Interrupt = field(default_factory=Interrupt)

    def parse(self, default: Flags | None = None) -> Flags:
        """Reads all flags.

        Args:
            default: What holds where a flag is not given.
        """
        return tyro.cli(
            self.kind,
            default=MISSING_NONPROP if default is None else default,
            args=self.words,
            prog=self.program,
            description=self.about,
            config=MARKERS,
            registry=self._registry(),
        )

    def parse_some(self, kind: type[Some]) -> Some:
        """Reads the flags of another dataclass, whatever others there are."""
        return self.parse_rest(kind)[0]

    def parse_rest(self, kind: type[Some]) -> tuple[Some, list[str]]:
        """Reads the flags of a dataclass; returns the other words, too."""
        return tyro.cli(
            kind,
            args=self.words,
            prog=self.program,
            return_unknown_args=True,
            add_help=False,
            config=MARKERS,
            registry=self._registry(),
        )

    def in_flags(self, sentence: object) -> str:
        """Returns a library's sentence with its arguments as flags."""
        return arguments_to_flags(str(sentence), list_flags(self.kind))

    def _registry(self) -> ConstructorRegistry:
        registry = ConstructorRegistry()
        names = list(list_flags(self.kind))
        registry.struct_rule(partial(_read_dataclass, names=names))
        return registry


def list_flags(kind: type) -> Iterator[str]:
    """Yields the names of a dataclass's flags, those of its groups included."""
    for name, _ in list_hints(kind):
        yield name


def list_hints(kind: type) -> Iterator[tuple[str, Any]]:
    """Yields a dataclass's flags and their types, as `list_flags` does."""
    for name, hint in get_type_hints(kind).items():
        if is_dataclass(hint) and isinstance(hint, type):
            yield from list_hints(hint)
        else:
            yield name, hint


def to_flag(name: str) -> str:
    """Returns the flag of an argument: `--learning-rate`."""
    return "--" + name.replace("_", "-")


def arguments_to_flags(text: str, names: Iterable[str]) -> str:
    """Turns the arguments that a library's sentence names into flags.

    `learning_rate` becomes `--learning-rate`, `resume=True` becomes
    `--resume`, `prior=laplace` becomes `--prior laplace`, and a sentence that
    begins with `epochs is` then begins with `--epochs is`.

    Args:
        text: The sentence.
        names: The arguments that are flags; others stay as they are.
    """
    for name in names:
        word, flag = rf"(?<![\w./-]){name}", to_flag(name)  # no part of a path
        text = re.sub(rf"{word}=True\b", flag, text)
        text = re.sub(rf"{word}=(?=[\w'])", f"{flag} ", text)
        text = re.sub(rf"^{name} is\b", f"{flag} is", text)
        if "_" in name:
            text = re.sub(rf"{word}(?![\w/=-]|\.\w)", flag, text)
    return text


def check_at_least_1(flags: Any, *names: str, most: int | None = None) -> None:
    """Refuses counts below 1; a flag that was left out is None, and passes.

    Args:
        flags: The flags.
        *names: Those that count something.
        most: What they must not exceed, if anything.

    Raises:
        ValueError: If one of the named flags is below 1, or above the most.
    """
    for name in names:
        value = getattr(flags, name)
        if value is None:
            continue
        if value < 1:
            raise ValueError(f"{to_flag(name)} is {value}; expected at least 1")
        if most is not None and value > most:
            raise ValueError(
                f"{to_flag(name)} is above {most:,}; expected at most that many"
            )


def _read_dataclass(
    info: StructTypeInfo, names: Sequence[str]
) -> StructConstructorSpec | None:
    """Tells tyro how a dataclass is made, and what its help is to say."""
    kind = info.type
    if not is_dataclass(kind):
        return None

    def make(**choices: Any) -> Any:
        try:
            return kind(**choices)
        except ValueError as error:
            raise RefusedError(error) from None

    explained = _explanations(kind)
    hints = get_type_hints(kind, include_extras=True)
    specs = []
    for entry in fields(kind):
        hint = hints[entry.name]
        shown = tyro.conf.arg(
            help=arguments_to_flags(explained.get(entry.name, ""), names),
            help_behavior_hint=_default_in_words,
            metavar=_metavar(hint),
        )
        default = _default(entry, info.default)
        annotated: Any = Annotated[hint, shown]
        specs.append(StructFieldSpec(entry.name, annotated, default))
    return StructConstructorSpec(make, tuple(specs))


def _explanations(kind: type) -> dict[str, str]:
    """Returns what the docstrings of a class and its bases say of fields."""
    explained = {}
    for base in reversed(kind.__mro__):
        for found in docstring_parser.parse(base.__doc__ or "").params:
            words = (found.description or "").split()
            explained[found.arg_name] = " ".join(words)
    return explained


def _default(entry: "Field[Any]", instance: Any) -> Any:
    """Returns a field's default, which is that of the instance, if any."""
    if hasattr(instance, entry.name):
        return getattr(instance, entry.name)
    if entry.default is not MISSING:
        return entry.default
    if entry.default_factory is not MISSING:
        return entry.default_factory()
    return MISSING_NONPROP


def _default_in_words(value: str) -> str:
    return "" if value in ("None", "False", "") else f"(default: {value})"


def _metavar(hint: Any) -> str | None:
    """Returns `PATH` for `Path | None`; for other types tyro's own will do."""
    info = PrimitiveTypeInfo.make(hint, {tyro.conf.DisallowNone})
    spec = ConstructorRegistry.get_primitive_spec(info)
    is_optional = NoneType in get_args(info.type)
    if is_optional and isinstance(spec, PrimitiveConstructorSpec):
        return spec.metavar
    return None
