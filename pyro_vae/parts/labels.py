"""Labels beside a part's inputs: what makes a VAE conditional on them.

A label is one of K classes, an integer from 0 on. Networks see it as a one-hot
vector, K further columns of their inputs.
"""

from typing import Any

import torch
from torch import Tensor, nn
from torch.distributions import Distribution
from torch.nn.functional import embedding

from pyro_vae.parts.contracts import AmortizedGuide, Likelihood


def join_labels(
    inputs: Tensor, labels: Tensor | int | None, num_labels: int
) -> Tensor:
    """Returns inputs with their one-hot labels as further columns.

    Args:
        inputs: Images or latents, `(..., B, F)`.
        labels: Their labels, `(B,)` integers, or one for all of them. Labels
            and inputs broadcast.
        num_labels: K; 0 where there are to be no labels.

    Returns:
        `(..., B, F + K)`; the inputs themselves, if K is 0.

    Raises:
        ValueError: If labels are missing, or not asked for, or do not
            broadcast with the inputs, or are not in 0, ..., K - 1.
    """
    if not num_labels:
        if labels is None:
            return inputs
        raise ValueError(
            "labels were given to a VAE that takes none; expected none: build "
            "it with condition=labels"
        )
    if labels is None:
        raise ValueError(
            f"the VAE is conditional on {num_labels} labels, and none were "
            "given; expected labels=, one for each image"
        )
    labels = torch.as_tensor(labels, device=inputs.device)
    try:
        shape = torch.broadcast_shapes(labels.shape, inputs.shape[:-1])
    except RuntimeError:
        raise ValueError(
            f"labels have shape {tuple(labels.shape)} for images or latents of "
            f"shape {tuple(inputs.shape)}; expected a label for each"
        ) from None
    codes = _encode(labels, num_labels, inputs)
    return torch.cat([inputs.expand(*shape, -1), codes.expand(*shape, -1)], -1)


def _encode(labels: Tensor, num_labels: int, like: Tensor) -> Tensor:
    """Returns labels as one-hot vectors, `(..., K)`."""
    codes = torch.eye(num_labels, device=like.device, dtype=like.dtype)
    try:
        return embedding(labels, codes)
    except (IndexError, RuntimeError) as error:
        raise ValueError(
            f"labels are of type {labels.dtype}, from {labels.min()} to "
            f"{labels.max()}; expected integers from 0 to {num_labels - 1} "
            f"({error})"
        ) from None


class WithLabel(nn.Module):
    """A network or a part whose inputs all have one label.

    Args:
        module: Takes inputs with one-hot labels, `(..., F + K)`.
        label: The label.
        num_labels: K.
    """

    def __init__(self, module: nn.Module, label: int, num_labels: int):
        super().__init__()
        self.module = module
        self.label, self.num_labels = label, num_labels
        self.out_features = getattr(module, "out_features", None)
        inputs = getattr(module, "in_features", None)
        self.in_features = None if inputs is None else inputs - num_labels

    def join(self, inputs: Tensor) -> Tensor:
        """Returns inputs `(..., F)` with the label, `(..., F + K)`."""
        return join_labels(inputs, self.label, self.num_labels)

    def forward(self, inputs: Tensor) -> Tensor | Distribution:
        """Returns what the module makes of inputs `(..., F)`."""
        return self.module(self.join(inputs))


class LikelihoodGiven(Likelihood):
    """The likelihood p(x | z, y) for one label y.

    Args:
        likelihood: Takes latents with one-hot labels, `(..., P + K)`.
        label: y.
        num_labels: K.
    """

    def __init__(self, likelihood: Likelihood, label: int, num_labels: int):
        super().__init__(WithLabel(likelihood.decoder, label, num_labels))
        self.given = WithLabel(likelihood, label, num_labels)
        self.support = likelihood.support
        self.takes_missing = likelihood.takes_missing

    def forward(self, z: Tensor) -> Distribution:
        """Returns p(x | z, y), batch shape `z.shape[:-1]`, event `(D,)`."""
        return self.given(z)

    def cross_log_prob(
        self, z: Tensor, x: Tensor, observed: Tensor | None = None
    ) -> Tensor:
        """Returns log p(x | z, y) for every pair, `(M, B)`, in nats."""
        likelihood: Any = self.given.module
        return likelihood.cross_log_prob(self.given.join(z), x, observed)


class GuideGiven(AmortizedGuide):
    """The guide q(z | x, y) for one label y.

    Args:
        guide: Takes images with one-hot labels, `(B, D + K)`.
        label: y.
        num_labels: K.
    """

    def __init__(self, guide: AmortizedGuide, label: int, num_labels: int):
        super().__init__(WithLabel(guide.encoder, label, num_labels))
        self.guide = guide

    def family(self, parameters: Tensor) -> Distribution:
        """Returns the guide's own family at parameters `(..., F)`."""
        return self.guide.family(parameters)


def give_label(part: nn.Module, label: int, num_labels: int) -> nn.Module:
    """Returns a likelihood or a guide for one label; parameters are shared.

    Args:
        part: One that takes its inputs with one-hot labels.
        label: The label.
        num_labels: K.
    """
    if isinstance(part, Likelihood):
        return LikelihoodGiven(part, label, num_labels)
    if isinstance(part, AmortizedGuide):
        return GuideGiven(part, label, num_labels)
    return WithLabel(part, label, num_labels)
