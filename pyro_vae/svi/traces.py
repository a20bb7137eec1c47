"""What a run of a pair changes in Python's objects."""

from collections.abc import Iterable, Mapping, Sequence
from typing import Any

from torch import Tensor

from pyro_vae.svi.places import Place
from pyro_vae.svi.random_states import list_other_states
from pyro_vae.svi.reads import Snapshot, copy_iterator, freeze, is_iterator
from pyro_vae.svi.refusals import DynamicPairError


class Traces:
    """Looks at Python's objects before and after a run.

    Args:
        places: The places that the pair's code reads, as `Reads.places`.
        args: The arguments of model and guide.
        kwargs: The same, by name.
    """

    def __init__(
        self,
        places: Mapping[tuple[int, str], Place],
        args: tuple,
        kwargs: dict,
    ):
        self._places = places
        self._given = {
            **{f"argument {place}": arg for place, arg in enumerate(args, 1)},
            **{f"the argument {name}": arg for name, arg in kwargs.items()},
        }
        self._before = Snapshot(places)
        self._others = self._look_at_others()

    def find_changes(self) -> list[str]:
        """Returns the names of what has changed into something but a tensor."""
        now = Snapshot(self._places)
        others = self._look_at_others()
        return [
            *(
                place.label
                for key, place in self._places.items()
                if not isinstance(now.values[key], Tensor)
                and now.frozen[key] != self._before.frozen[key]
            ),
            *(name for name in others if others[name] != self._others[name]),
        ]

    def _look_at_others(self) -> dict[str, Any]:
        """Returns the arguments' values and random states, to be compared."""
        given = {k: freeze(v, exact=True) for k, v in self._given.items()}
        return {**given, **list_other_states()}


def refuse_iterators(places: Iterable[Place]) -> None:
    """Refuses iterators that could not be put back after a run.

    Raises:
        DynamicPairError: If there is one.
    """
    for place in places:
        value = place.get()
        if is_iterator(value) and copy_iterator(value) is None:
            raise DynamicPairError(
                f"the model or guide reads {place.label}, a "
                f"{type(value).__name__}, which goes on in every run; expected "
                "a pair that changes nothing but tensors: pass what it yields "
                "as an argument, or use pyro.infer.SVI"
            )


def refuse_changes(labels: Sequence[str]) -> None:
    """Refuses a pair that changes objects in every run.

    Raises:
        DynamicPairError: If there are any.
    """
    if labels:
        raise DynamicPairError(
            f"the model or guide changes {', '.join(labels)} in every run, "
            "which a compiled step would not do; expected a pair that changes "
            "nothing but tensors: use pyro.infer.SVI"
        )
