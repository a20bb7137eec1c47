"""The labels that a fit learns from: all of them, or a few of each class."""

from collections.abc import Iterator
from typing import Any

import torch
from torch import Tensor

from pyro_vae.config import FitConfig
from pyro_vae.data import Dataset, Rows
from pyro_vae.vae import VAE


def choose_labels(
    labels: Tensor, count: int, num_classes: int, seed: int
) -> Tensor:
    """Keeps a few labels, as many of each class, by a seed.

    Args:
        labels: Labels from 0 to K - 1, `(N,)`, or -1 where one is not known.
        count: The number of labels to keep.
        num_classes: K.
        seed: The seed of the choice.

    Returns:
        The labels that are kept, and -1 in the place of the others, `(N,)`.

    Raises:
        ValueError: If the count is no multiple of K, or a class has too few.
    """
    each, rest = divmod(count, num_classes)
    if rest or not each:
        raise ValueError(
            f"labeled is {count}; expected a multiple of the number of "
            f"classes, {num_classes}, so that each has as many labels"
        )
    generator = torch.Generator().manual_seed(seed)
    order = torch.randperm(len(labels), generator=generator)
    chosen = torch.full_like(labels, -1)
    for label in range(num_classes):
        places = order[labels[order] == label]
        if len(places) < each:
            raise ValueError(
                f"labeled is {count}, {each} of each class, and class {label} "
                f"has {len(places)} training images; expected at most that many"
            )
        chosen[places[:each]] = label
    return chosen


class KnownLabels:
    """What the steps of a fit are told of the training images' labels.

    A conditional VAE is told all of them. With `labeled` a mixture is told
    those that are kept, where they are in the minibatch, and beside it some of
    the labeled images, to be classified.

    Args:
        vae: The VAE, on its device.
        data: Training images and labels, without validation images.
        config: The run's configuration.
    """

    def __init__(self, vae: VAE, data: Dataset, config: FitConfig):
        self.labels: Tensor | None = None
        self.weight, self._size = config.label_weight, config.batch_size
        self._places = torch.empty(0, dtype=torch.long)
        if vae.num_labels:
            self.labels = data.train_labels
        elif config.labeled is not None and data.train_labels is not None:
            self.labels = choose_labels(
                data.train_labels, config.labeled, vae.num_states, config.seed
            )
            self._places = (self.labels >= 0).nonzero().squeeze(1)
        if self.labels is not None:
            device = next(vae.parameters()).device
            self.labels = self.labels.to(device, torch.long)

    def draw(self, num_batches: int) -> Iterator[Tensor | None]:
        """Yields, for each step, the places of labeled images to classify.

        They are all of them, or else as many as a minibatch has, each once
        before any comes again.
        """
        count = len(self._places)
        size = min(count, self._size)
        if size == count:
            yield from [self._places if count else None] * num_batches
            return
        rounds = -(-num_batches * size // count)
        order = torch.cat([torch.randperm(count) for _ in range(rounds)])
        yield from self._places[order[: num_batches * size]].split(size)

    def given(
        self, images: Tensor | Rows, index: Tensor, places: Tensor | None
    ) -> dict[str, Any]:
        """Returns the arguments of a step on a minibatch, by name.

        Args:
            images: The images of the epoch, `(N, D)`.
            index: The places of the minibatch's images, `(B,)`.
            places: Those of the labeled images to classify, or None.
        """
        if self.labels is None:
            return {}
        given: dict[str, Any] = {"labels": self.labels[index]}
        if places is not None:
            places = places.to(images.device)
            known = self.labels[places]
            given["classified"] = (images[places], known, self.weight)
        return given


def check_labeled(vae: VAE, data: Dataset, config: FitConfig) -> None:
    """Refuses `labeled` for a VAE or data that cannot take it.

    Raises:
        ValueError: If the VAE has no component, or E-steps, or the data have
            no labels, or other classes than the VAE has components.
    """
    if config.labeled is None:
        return
    if not vae.has_component or vae.num_labels:
        raise ValueError(
            f"labeled is {config.labeled} with a prior of type "
            f"{type(vae.prior).__name__}; expected None, or prior=mixture "
            "without condition=labels: the label is its component"
        )
    if not vae.inference.is_amortized:
        raise ValueError(
            f"labeled is {config.labeled} with the inference "
            f"{type(vae.inference).__name__}, whose E-steps see no labels; "
            "expected inference=amortized"
        )
    if data.train_labels is None or data.test_labels is None:
        raise ValueError(
            f"labeled is {config.labeled}, and {data.name} has no labels; "
            "expected data with labels, or None"
        )
    if data.num_labels != vae.num_states:
        raise ValueError(
            f"num_components is {vae.num_states}; expected "
            f"{data.num_labels} with labeled, the number of classes of "
            f"{data.name}"
        )
