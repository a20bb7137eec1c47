"""The page: what it shows of each run, and the file that it becomes."""

import html
import json
import math
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from typing import Any

import torch

from pyro_vae.data import Dataset
from pyro_vae.explorer.answers import answer
from pyro_vae.explorer.arrays import Blob
from pyro_vae.explorer.bundle import read_part, read_script
from pyro_vae.explorer.distributions import (
    describe_guide,
    describe_likelihood,
    describe_prior,
)
from pyro_vae.explorer.images import (
    choose_images,
    measure_frame,
    number_labels,
    pack_images,
)
from pyro_vae.explorer.latents import describe_latents, find_latents
from pyro_vae.explorer.networks import UnknownPartError
from pyro_vae.explorer.states import describe_states
from pyro_vae.vae import VAE

Words = dict[str, Any]
OnAnswer = Callable[[], None]

PREPARED = 36  # images with exact answers
MEGABYTES = 6.0  # of the whole page
SOME = 500  # images by which the size of all is estimated


@dataclass(frozen=True)
class Exhibit:
    """A VAE to be explored.

    Attributes:
        name: The name on its button.
        vae: The VAE, on the CPU.
        data: The data that it was fitted to.
        about: A line on it, for the page's head.
    """

    name: str
    vae: VAE
    data: Dataset
    about: str = ""


def render(
    exhibits: Sequence[Exhibit],
    num_prepared: int = PREPARED,
    megabytes: float = MEGABYTES,
    on_answer: OnAnswer = lambda: None,
) -> str:
    """Returns a page to explore VAEs in, one file that needs no other.

    Args:
        exhibits: The VAEs, each with its data.
        num_prepared: The number of test images whose exact posterior and gaps
            are computed here, for each VAE.
        megabytes: The size of the page, which the test images fill up: as many
            of them go in as there is room for.
        on_answer: Called after each image that was prepared.

    Raises:
        ValueError: If the page has no code for a VAE's decoder.
    """
    return _Page(num_prepared, on_answer).render(exhibits, megabytes)


@dataclass
class _Page:
    """A page in the making: blobs of arrays, and words on them."""

    num_prepared: int
    on_answer: OnAnswer
    blobs: list[Blob] = field(default_factory=list)
    sets: list[Dataset] = field(default_factory=list)
    words: list[Words] = field(default_factory=list)

    def render(self, exhibits: Sequence[Exhibit], megabytes: float) -> str:
        """Returns the page."""
        runs = [self.describe_run(one) for one in exhibits]
        page = {"runs": runs, "datasets": self.words}
        blobs = [blob.encode() for blob in self.blobs]
        room = megabytes * 1e6 - len(self.fill(page, blobs).encode())
        for data, words in zip(self.sets, self.words, strict=True):
            words.update(self.describe_images(data, room / len(self.sets)))
        added = [blob.encode() for blob in self.blobs[len(blobs) :]]
        return self.fill(page, [*blobs, *added])

    def new_blob(self) -> Blob:
        """Returns a new blob of the page."""
        self.blobs.append(Blob(len(self.blobs)))
        return self.blobs[-1]

    def describe_run(self, one: Exhibit) -> Words:
        """Returns what the page shows of a VAE, JSON-able."""
        if one.vae.num_labels:
            raise UnknownPartError(
                f"{one.name} is conditional on labels, for which the page has "
                "no code; expected a run without condition=labels"
            )
        if getattr(one.vae.likelihood, "takes_missing", False):
            raise UnknownPartError(
                f"{one.name} takes missing values, for which the page has no "
                "code; expected a run without them"
            )
        number = self.find_dataset(one.data)
        labels = number_labels(one.data)[1]
        blob, vae = self.new_blob(), one.vae
        words: Words = {
            "name": one.name,
            "about": one.about,
            "dataset": number,
        }
        if vae.prior().has_enumerate_support:
            states = describe_states(vae, one.data.test, labels, blob)
            return {**words, "states": states}
        words.update(self.describe_parts(vae, blob))
        z = find_latents(vae, one.data.test)
        words.update(describe_latents(z, blob))
        prepared = self.words[number]["prepared"]
        words["answers"] = []
        for found in answer(vae, one.data.test[prepared], blob):
            words["answers"].append(found)
            self.on_answer()
        return words

    def describe_parts(self, vae: VAE, blob: Blob) -> Words:
        """Returns a VAE's parts; a reason in place of what cannot be run.

        Raises:
            ValueError: If the decoder cannot be run.
        """
        words: Words = {
            "likelihood": describe_likelihood(vae.likelihood, blob),
            "prior": None,
            "guide": None,
            "notes": [],
        }
        try:
            words["prior"] = describe_prior(vae.prior, blob)
        except UnknownPartError:
            name = type(vae.prior).__name__
            words["notes"].append(
                f"The page has no code for the density of {name}: it shows "
                "neither that nor ELBOs of its own."
            )
        inference = type(vae.inference).__name__
        if inference == "LocalInference":
            words["notes"].append(
                "Inference was local: there is no encoder that a drawn figure "
                "could go through."
            )
            return words
        if not vae.inference.is_amortized:
            words["notes"].append(
                "The page runs the encoder alone, without the E-steps that "
                "refine its answers."
            )
        try:
            guide = vae.guide.distribution
            words["guide"] = describe_guide(guide, blob)
        except UnknownPartError as error:
            words["notes"].append(f"Nothing can be drawn here: {error}.")
        return words

    def find_dataset(self, data: Dataset) -> int:
        """Returns the number of a data set, which is described if it is new."""
        same = [other.describe() == data.describe() for other in self.sets]
        if True in same:
            return same.index(True)
        names, labels = number_labels(data)
        blob = self.new_blob()
        numbers = torch.zeros(len(data.test)) if labels is None else labels
        self.sets.append(data)
        self.words.append(
            {
                "name": data.name,
                "image_shape": list(data.image_shape),
                "num_images": len(data.test),
                "label_names": names,
                "has_labels": labels is not None,
                "labels": blob.add(numbers.float()),
                "prepared": choose_images(
                    labels, self.num_prepared, len(data.test)
                ),
                "frame": measure_frame(data),
                "is_binary": data.is_binary,
            }
        )
        return len(self.sets) - 1

    def describe_images(self, data: Dataset, room: float) -> Words:
        """Returns the test images that there is room for, JSON-able."""
        sample = Blob(0)
        pack_images(data.test[:SOME], sample)
        each = len(sample.encode()) / min(SOME, len(data.test))
        prepared = self.words[self.sets.index(data)]["prepared"]
        least = max(prepared, default=0) + 1
        # The sample may be of smaller images than the rest, by some percent.
        count = max(least, math.floor(room / each * 0.97))
        images = pack_images(data.test[:count], self.new_blob())
        return {**images, "num_pictures": min(count, len(data.test))}

    def fill(self, page: Words, blobs: Sequence[str]) -> str:
        """Returns the template with everything in its place."""
        data = json.dumps(page, separators=(",", ":"), allow_nan=True)
        arrays = "\n".join(
            f'<script type="text/plain" id="blob-{number}">{text}</script>'
            for number, text in enumerate(blobs)
        )
        parts = {
            "TITLE": html.escape(_title(page)),
            "STYLE": read_part("style.css"),
            "DATA": data.replace("<", "\\u003c"),
            "BLOBS": arrays,
            "SCRIPT": read_script(),
        }
        template = read_part("page.html")
        pieces = template.split("@@")  # text, name, text, name, ..., text
        for place in range(1, len(pieces), 2):
            pieces[place] = parts[pieces[place]]
        return "".join(pieces)


def _title(page: Words) -> str:
    names = [run["name"] for run in page.get("runs", [])]
    return "A latent space to explore: " + ", ".join(names)
