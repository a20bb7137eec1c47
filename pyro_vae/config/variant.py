"""What a row of the tables in variants.py says of a variant."""

from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from typing import Any

from pyro_vae.config.bounds import Bound


@dataclass(frozen=True)
class Variant:
    """One way to fill a choice.

    Attributes:
        make: What makes it; the first argument is the configuration.
        uses: The choices that have an effect only with this variant, or with
            another one that uses them too.
        goes_with: For other choices, the variants that fit this one. The first
            is what `auto` means there.
        bounds: Further bounds of other choices.
        first_noise_scale: Where a learned noise scale starts by default.
    """

    make: Callable[..., Any]
    uses: tuple[str, ...] = ()
    goes_with: Mapping[str, tuple[str, ...]] = field(default_factory=dict)
    bounds: Mapping[str, Bound] = field(default_factory=dict)
    first_noise_scale: float = 0.5


Table = dict[str, Variant]
