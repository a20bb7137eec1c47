"""Random numbers of a whole minibatch, of which a process keeps its rows.

Every process draws what one process would draw, and so stays in step with its
random stream. Which dimension of a draw counts the rows is learned by running
the same code on another number of rows.
"""

import functools
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from typing import Any, NamedTuple

import torch
from torch import Tensor
from torch.distributions import Categorical

from pyro_vae.svi.compat import OperatorMode, aten, unrecorded

# Their number of random numbers depends on the values that come out.
_REJECTING = {
    aten._standard_gamma.default: "a gamma, beta or Student t distribution",
    aten._sample_dirichlet.default: "a Dirichlet distribution",
    aten.poisson.default: "a Poisson distribution",
    aten.binomial.default: "a binomial distribution",
    aten.randperm.default: "a permutation, such as Pyro's subsample",
}
_CATEGORIES = aten.multinomial.default  # of `(..., K)`, flattened by torch


@functools.cache  # for it is asked of all that a step does
def is_random(operator: Any) -> bool:
    """Returns whether an operator draws."""
    tags = getattr(operator, "tags", ())  # a Python function has none
    return torch.Tag.nondeterministic_seeded in tags


@dataclass(frozen=True)
class Part:
    """A process's rows of a minibatch.

    Attributes:
        size: B, the number of rows of the whole minibatch.
        start: The first of its rows.
        stop: The one after the last.
        is_empty: Whether it has none. It then stands in with one row of
            another process, which counts for nothing.
    """

    size: int
    start: int
    stop: int
    is_empty: bool = False

    @property
    def count(self) -> int:
        """The number of rows that are computed."""
        return self.stop - self.start

    @property
    def rows(self) -> slice:
        """The rows that are computed, of the whole minibatch."""
        return slice(self.start, self.stop)


class Draw(NamedTuple):
    """One operator that draws, and the shape of its draws."""

    operator: Any
    shape: tuple[int, ...]


class Place(NamedTuple):
    """Where the rows of a draw are: a dimension, None if it has none."""

    operator: Any
    dim: int | None


class _Watching(OperatorMode):
    """Sees the operators that draw, in their order."""

    def __init__(self) -> None:
        super().__init__()
        self.batch: tuple[int, ...] | None = None  # of categories

    def __torch_dispatch__(
        self,
        function: Any,
        types: Sequence[type],
        args: Sequence[Any] = (),
        kwargs: Mapping[str, Any] | None = None,
    ) -> Any:
        if not is_random(function):
            return function(*args, **(kwargs or {}))
        shape = self._shape(function, args)
        return self.draw(function, shape, args, dict(kwargs or {}))

    def draw(
        self, function: Any, shape: tuple[int, ...], args: Any, kwargs: Any
    ) -> Any:
        raise NotImplementedError

    def _shape(self, function: Any, args: Sequence[Any]) -> tuple[int, ...]:
        """Returns the shape of what an operator draws."""
        if function is _CATEGORIES:
            return self.batch or tuple(args[0].shape[:-1])
        for size in args:
            if isinstance(size, list | tuple):
                return tuple(size)
        shapes = [arg.shape for arg in args if isinstance(arg, Tensor)]
        return tuple(torch.broadcast_shapes(*shapes)) if shapes else ()


@contextmanager
def _watch(mode: _Watching) -> Iterator[None]:
    """Runs a block in a mode that knows the shape of categories, too."""
    sample = Categorical.sample

    def sample_of(q: Categorical, sample_shape: Any = ()) -> Tensor:
        mode.batch = tuple(q.probs.shape[:-1])
        try:
            return sample(q, torch.Size(sample_shape))
        finally:
            mode.batch = None

    Categorical.sample = sample_of  # type: ignore[method-assign]
    try:
        with mode:
            yield
    finally:
        Categorical.sample = sample  # type: ignore[method-assign]


class _Learning(_Watching):
    """Notes what is drawn, and lets it be."""

    def __init__(self) -> None:
        super().__init__()
        self.draws: list[Draw] = []

    def draw(
        self, function: Any, shape: tuple[int, ...], args: Any, kwargs: Any
    ) -> Any:
        self.draws.append(Draw(function, shape))
        return function(*args, **kwargs)


def list_draws(function: Callable[[], Any]) -> list[Draw]:
    """Returns what a function draws; random states are as they were."""
    learning = _Learning()
    with torch.random.fork_rng(), _watch(learning):
        function()
    return learning.draws


def find_places(draws: Sequence[Draw], others: Sequence[Draw]) -> list[Place]:
    """Returns where the rows are in each draw of a function.

    Args:
        draws: What it draws for some number of rows.
        others: What it draws for another number.

    Raises:
        ValueError: If it draws something that cannot be split.
    """
    if [draw.operator for draw in draws] != [draw.operator for draw in others]:
        raise ValueError(
            "the random draws depend on the number of images, or on what was "
            "drawn before; expected the same draws for any number, so that "
            "processes can share a minibatch: fit in one process"
        )
    return [
        Place(draw.operator, _find_dim(draw, other))
        for draw, other in zip(draws, others, strict=True)
    ]


def _find_dim(draw: Draw, other: Draw) -> int | None:
    """Returns the dimension in which two draws differ, or None."""
    if draw.shape == other.shape:
        return None
    if draw.operator in _REJECTING:
        raise ValueError(
            f"the step draws from {_REJECTING[draw.operator]} for each image, "
            "which takes as many random numbers as it happens to need, so "
            "that a process cannot know those of the others' images; expected "
            "draws of a fixed number: fit in one process"
        )
    pairs = list(zip(draw.shape, other.shape, strict=False))
    dims = [dim for dim, (one, two) in enumerate(pairs) if one != two]
    if len(dims) != 1 or len(draw.shape) != len(other.shape):
        raise ValueError(
            f"the step draws numbers of shape {draw.shape} by "
            f"{draw.operator}, of which no one dimension is that of the "
            "images; expected one, so that processes can share a minibatch: "
            "fit in one process"
        )
    return dims[0]


class _Sharing(_Watching):
    """Draws for the whole minibatch, and keeps the rows of a process."""

    def __init__(self, part: Part, places: Sequence[Place]):
        super().__init__()
        self.part, self._places = part, iter(places)
        self._rows: dict[torch.device, Tensor] = {}

    def draw(
        self, function: Any, shape: tuple[int, ...], args: Any, kwargs: Any
    ) -> Any:
        place = next(self._places, None)
        if place is None or place.operator is not function:
            raise ValueError(
                f"the step draws random numbers by {function}, which it did "
                "not in its first run; expected the same draws in every step, "
                "so that processes can share a minibatch: fit in one process"
            )
        dim = place.dim
        if dim is None:
            return function(*args, **kwargs)
        whole = (*shape[:dim], self.part.size, *shape[dim + 1 :])
        if function is _CATEGORIES:
            return self._draw_categories(dim, shape, whole, args, kwargs)
        given = [
            list(whole)
            if isinstance(arg, list | tuple)
            else self._widen(arg, dim, len(shape))
            for arg in args
        ]
        if not function._schema.is_mutable:
            return self._keep(function(*given, **kwargs), dim)
        given[0] = args[0].new_empty(whole)
        drawn = function(*given, **kwargs)
        return args[0].copy_(self._keep(drawn, dim))

    def _draw_categories(
        self,
        dim: int,
        shape: tuple[int, ...],
        whole: tuple[int, ...],
        args: Any,
        kwargs: Any,
    ) -> Tensor:
        probs, *options = args
        probs = probs.reshape(*shape, probs.shape[-1])
        probs = self._widen(probs, dim, probs.dim())
        flat = probs.reshape(-1, probs.shape[-1])
        drawn = _CATEGORIES(flat, *options, **kwargs)
        drawn = self._keep(drawn.reshape(*whole, -1), dim)
        return drawn.reshape(-1, drawn.shape[-1])

    def _keep(self, drawn: Any, dim: int) -> Any:
        """Returns the process's rows of what was drawn."""
        if isinstance(drawn, tuple):  # a dropout, and its mask
            return tuple([self._keep(one, dim) for one in drawn])
        return drawn.index_select(dim, self._list_rows(drawn.device))

    def _list_rows(self, device: torch.device) -> Tensor:
        """Returns the places of the process's rows, `(b,)`.

        They are an input of a recorded graph, so that processes with as many
        rows have the same graph, and find it in the cache.
        """
        if device not in self._rows:
            start, stop = self.part.start, self.part.stop
            with unrecorded():
                self._rows[device] = torch.arange(start, stop, device=device)
        return self._rows[device]

    def _widen(self, value: Any, dim: int, num_dims: int) -> Any:
        """Returns a tensor with ones in the rows of other processes."""
        if not isinstance(value, Tensor):
            return value
        at = dim - num_dims  # from the right, as shapes broadcast
        if value.dim() < -at or value.shape[at] != self.part.count:
            return value
        shape = list(value.shape)
        shape[at] = self.part.size
        rows = self._list_rows(value.device)
        return value.new_ones(shape).index_copy(at, rows, value)


@contextmanager
def keeping_rows(part: Part, places: Sequence[Place]) -> Iterator[None]:
    """Keeps a process's rows of what a block draws for a whole minibatch.

    Args:
        part: The process's rows.
        places: What `find_places` has returned for the block's code.
    """
    with _watch(_Sharing(part, places)):
        yield
