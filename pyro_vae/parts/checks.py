"""Whether a VAE's parts fit their places, and each other: in sentences."""

import inspect
from typing import Any

import torch
from torch import Tensor, nn
from torch.distributions import Distribution

from pyro_vae.parts.contracts import AmortizedGuide, Likelihood, Prior
from pyro_vae.parts.distributions import count_states

# For each place of a VAE its contract, an example, and its forward.
PLACES: dict[str, tuple[type, str, str]] = {
    "prior": (Prior, "a Prior such as NormalPrior(2)", "forward()"),
    "likelihood": (
        Likelihood,
        "a Likelihood such as GaussianLikelihood(decoder)",
        "forward(z)",
    ),
    "guide": (
        AmortizedGuide,
        "an AmortizedGuide such as NormalGuide(encoder)",
        "forward(x)",
    ),
}
# What torch says of a tensor that is not of a layer's size.
MISFITS = (
    "shapes cannot be multiplied",
    "is invalid for input of size",
    "must have the same dtype",
)


def check_part(part: Any, place: str) -> None:
    """Refuses what cannot be a VAE's part in a place, without running it.

    Args:
        part: What was passed.
        place: `prior`, `likelihood` or `guide`.

    Raises:
        ValueError: If it is no module, or one for another place.
    """
    contract, example, forward = PLACES[place]
    kind = type(part).__name__
    if isinstance(part, Distribution):
        raise ValueError(
            f"the {place} is {part}, a distribution; expected {example}, or "
            "another module whose forward returns one"
        )
    if not isinstance(part, nn.Module):
        if isinstance(part, type):
            kind = f"type, {part.__name__} itself"
        raise ValueError(
            f"the {place} is of type {kind}; expected a module whose forward "
            f"returns a distribution, {example}"
        )
    for other, (theirs, _, _) in PLACES.items():
        if isinstance(part, theirs) and not isinstance(part, contract):
            raise ValueError(
                f"the {place} is {kind}, a {other}; expected {example}: the "
                "order is VAE(prior, likelihood, guide)"
            )
    if not _takes(part, 0 if place == "prior" else 1):
        raise ValueError(
            f"the {place} is {kind} with forward"
            f"{inspect.signature(part.forward)}; expected {forward}: the order "
            "is VAE(prior, likelihood, guide)"
        )


def _takes(part: nn.Module, count: int) -> bool:
    """Returns whether a module can be called with so many arguments."""
    try:
        signature = inspect.signature(part.forward)
    except (TypeError, ValueError):  # compiled code does not tell
        return True
    try:
        signature.bind(*[None] * count)
    except TypeError:
        return False
    return True


def call_part(part: nn.Module, place: str, inputs: Tensor) -> Any:
    """Returns what a part makes of its inputs.

    Args:
        part: The likelihood or the guide, or the guide's encoder.
        place: What it is, in one of those words.
        inputs: Latents for a likelihood, otherwise images.

    Raises:
        ValueError: If its network takes inputs of another size, or cannot
            take a single one in training.
    """
    try:
        return part(inputs)
    except (RuntimeError, ValueError) as error:
        words = _explain(str(error), part, place, inputs)
        if words is None:
            raise
        raise ValueError(words) from None


def _explain(
    fault: str, part: nn.Module, place: str, inputs: Tensor
) -> str | None:
    """Returns what torch's words mean here, if they are of a known kind."""
    what = f"the {place} {type(part).__name__}"
    if "more than 1 value per channel when training" in fault:
        return (
            f"the minibatch has 1 image, and {what} has a batch norm, which "
            "takes at least 2 in training; expected no minibatch of 1: choose "
            "another batch_size, of which the last minibatch has more"
        )
    if not any(words in fault for words in MISFITS):
        return None
    size, name = inputs.shape[-1], "z" if place == "likelihood" else "x"
    width = _input_width(part)
    if width not in (None, size):
        return (
            f"{what} takes {width} numbers, but {name} has shape "
            f"{tuple(inputs.shape)}; expected {size} in_features of its "
            f"network, or {name} of {width} numbers"
        )
    return (
        f"{what} cannot take {name} of shape {tuple(inputs.shape)} and "
        f"{inputs.dtype} ({fault.splitlines()[0]}); expected layers whose "
        "sizes and dtype fit it, and each other"
    )


def _input_width(part: nn.Module) -> int | None:
    """Returns the size that a part's network takes, if that tells it."""
    network = getattr(part, "encoder", getattr(part, "decoder", part))
    while isinstance(network, nn.Sequential) and len(network):
        network = network[0]
    return _width(network, "in_features")


def _width(network: nn.Module, name: str) -> int | None:
    """Returns a network's `in_features` or `out_features`, if it tells."""
    width = getattr(network, name, None)
    return width if type(width) is int and width > 0 else None  # lazy: 0


def check_sizes(
    p: Distribution,
    likelihood: nn.Module,
    guide: nn.Module,
    num_labels: int = 0,
) -> None:
    """Refuses this package's own parts whose sizes do not fit together.

    Parts of other classes may do with their networks what they like; they are
    asked when they are used.

    Args:
        p: p(z), event shape `(P,)`.
        likelihood: The likelihood.
        guide: The guide.
        num_labels: K, the columns that labels add to both networks' inputs.

    Raises:
        ValueError: If a size is known and not the other part's.
    """
    encoder = decoder = nn.Module()
    if _is_ours(likelihood) and isinstance(likelihood, Likelihood):
        decoder = likelihood.decoder
    if _is_ours(guide) and isinstance(guide, AmortizedGuide):
        encoder = guide.encoder
        outputs = _width(encoder, "out_features")
        if outputs is not None:
            check_latents(guide.family(torch.zeros(1, outputs)), p)
    labels = f" and {num_labels} labels" if num_labels else ""
    ours, theirs = _width(decoder, "in_features"), p.event_shape[0]
    if ours not in (None, theirs + num_labels):
        raise ValueError(
            f"the likelihood's decoder takes {ours} numbers and the prior's z "
            f"has {theirs}{labels}; expected as many: change the decoder's "
            "inputs or the prior's size"
        )
    _check_pixels(decoder, encoder, num_labels, labels)


def _check_pixels(
    decoder: nn.Module, encoder: nn.Module, num_labels: int, labels: str
) -> None:
    """Refuses networks for images of different sizes."""
    pixels = _width(decoder, "out_features")
    inputs = _width(encoder, "in_features")
    if pixels is None or inputs is None or pixels + num_labels == inputs:
        return
    raise ValueError(
        f"the likelihood's decoder returns {pixels} pixels and the guide's "
        f"encoder takes {inputs}{labels}; expected as many: change one of them"
    )


def _is_ours(part: nn.Module) -> bool:
    return type(part).__module__.startswith("pyro_vae.")


def check_latents(q: Distribution, p: Distribution) -> None:
    """Refuses a guide whose latents are not the prior's.

    Args:
        q: q(z | x), event shape `(P,)`.
        p: p(z), event shape `(P,)`.

    Raises:
        ValueError: If their sizes or their discrete states differ.
    """
    check_latent_dim(q.event_shape[-1], p)
    ours, theirs = count_states(q), count_states(p)
    if ours != theirs:
        raise ValueError(
            f"the guide's q(z | x) is {type(q).__name__} with {ours} discrete "
            f"states and the prior's p(z) {type(p).__name__} with {theirs}; "
            "expected as many: use the guide that goes with the prior"
        )


def check_latent_dim(size: int, p: Distribution) -> None:
    """Refuses a z of another size than the prior's.

    Raises:
        ValueError: If they differ.
    """
    if size != p.event_shape[-1]:
        raise ValueError(
            f"the guide's z has {size} dimensions and the prior's "
            f"{p.event_shape[-1]}; expected as many of both: change the "
            "guide's outputs or the prior's size"
        )
