"""Stand-ins for the data and the packages that Pyro's programs ask for."""

import datetime
import importlib.util
import os
import sys
from pathlib import Path
from types import SimpleNamespace
from typing import Any
from unittest.mock import MagicMock

import numpy as np
import pandas as pd
import torch
from torch import Tensor
from torchvision import datasets
from torchvision.transforms import functional

MNIST_FOLDER = "PYRO_VAE_DATA"  # an environment variable
NUM_IMAGES = 2560
NUM_CANVASES = 400
# They draw, download or lay out, and have no part in a step.
FOR_SHOW = ("corner", "graphviz", "seaborn", "visdom", "wget", "wordcloud")
STATES = (
    "Massachusetts",
    "New York",
    "Connecticut",
    "New Hampshire",
    "Vermont",
    "New Jersey",
    "Maine",
    "Rhode Island",
    "Pennsylvania",
)


class StandIns:
    """Random data of the right shapes and ranges, under the loaders' names.

    Args:
        folder: A folder for files that programs expect.

    Attributes:
        used: What was used of them, in words.
    """

    def __init__(self, folder: Path):
        self.folder, self.used = folder, list[str]()

    def put(self) -> None:
        """Puts all stand-ins in their places."""
        for name in FOR_SHOW:
            if importlib.util.find_spec(name) is None:
                sys.modules[name] = MagicMock()
        sys.modules["wget"] = SimpleNamespace(download=self.download_faces)
        self._put_images()
        from pyro.contrib.examples import finance, nextstrain, util

        (self.folder / "data").mkdir()
        util.get_data_directory = lambda *_: str(self.folder / "data")
        from pyro.contrib.examples import polyphonic_data_loader as polyphonic

        polyphonic.load_data = self.load_music
        finance.load_snp500 = self.load_prices
        nextstrain.load_nextstrain_counts = self.load_strains
        pd.read_csv = self.read_csv
        import sklearn.datasets

        sklearn.datasets.fetch_20newsgroups = self.load_news
        if not torch.cuda.is_available():
            torch.Tensor.cuda = torch.nn.Module.cuda = lambda self, *_: self

    def _put_images(self) -> None:
        """Has MNIST read from the folder that is there, in float64."""
        make, to_tensor = datasets.MNIST.__init__, functional.to_tensor

        def make_small(
            mnist: Any, root: str, *args: Any, **kwargs: Any
        ) -> None:
            kwargs["download"] = False
            make(mnist, os.environ.get(MNIST_FOLDER, root), *args, **kwargs)
            if type(mnist).__name__ != "MNISTCached":  # counts on all
                mnist.data = mnist.data[:NUM_IMAGES]
                mnist.targets = mnist.targets[:NUM_IMAGES]

        datasets.MNIST.__init__ = make_small
        datasets.MNIST.raw_folder = property(
            lambda mnist: os.path.join(mnist.root, "MNIST", "raw")
        )
        functional.to_tensor = lambda image: to_tensor(image).double()
        import torchvision.transforms.transforms as transforms

        transforms.F.to_tensor = functional.to_tensor
        from pyro.contrib.examples import multi_mnist

        make_canvases = multi_mnist.mk_dataset

        def load(root: str) -> tuple[np.ndarray, np.ndarray]:
            mnist = multi_mnist.load_mnist(root)
            return make_canvases(NUM_CANVASES, mnist, 2, 50)

        multi_mnist.load = load

    def _random(self) -> np.random.Generator:
        if "stand-in data" not in self.used:
            self.used.append("stand-in data")
        return np.random.default_rng(0)

    def load_music(self, dataset: Any) -> dict[str, dict[str, Tensor]]:
        """Returns sequences of 88 notes, in place of the JSB chorales."""
        rng, music = self._random(), {}
        rates = np.where(np.arange(88) % 2 == 0, 0.0, 0.09)
        for part, count in (("train", 60), ("valid", 10), ("test", 10)):
            lengths = torch.tensor(rng.integers(8, 17, count))
            notes = rng.random((count, 16, 88)) < rates
            within = torch.arange(16) < lengths[:, None]
            music[part] = {
                "sequences": torch.tensor(notes * 1.0) * within[..., None],
                "sequence_lengths": lengths,
            }
        return music

    def load_prices(self) -> pd.DataFrame:
        """Returns an index's daily values, whose steps have heavy tails."""
        steps = 0.01 * self._random().standard_t(3, 1000)
        dates = pd.date_range("2000-01-01", periods=1000).astype(str)
        close = 100 * np.exp(steps.cumsum())
        return pd.DataFrame({"Date": dates, "Close": close})

    def load_strains(self, **_: Any) -> dict[str, Any]:
        """Returns counts by time, place and strain, as nextstrain's."""
        rng = self._random()
        lineages = ["B.1.1.7", "B.1.617.2", "Q.1", "Q.2", "AY.1", "AY.2", "A"]
        counts = torch.tensor(1.0 * rng.poisson(20.0, (27, 9, 7)))
        indices = counts.nonzero().T
        total = counts.sum(-1)
        return {
            "counts": counts,
            "sparse_counts": {
                "index": indices,
                "value": counts[tuple(indices)],
                "total": total,
            },
            "features": torch.tensor(1.0 * (rng.random((7, 12)) < 0.3)),
            "lineages": lineages,
            "locations": [f"USA / {state}" for state in STATES],
            "mutations": [f"S:{index}" for index in range(12)],
            "start_date": datetime.datetime(2019, 12, 1),
            "time_step_days": 28,
        }

    def read_csv(self, source: Any, *args: Any, **kwargs: Any) -> Any:
        """Returns the table of an address."""
        rng = self._random()
        if "rugged" in str(source):
            log_gdp = rng.normal(8.5, 1.2, 170)
            return pd.DataFrame(
                {
                    "cont_africa": rng.integers(0, 2, 170),
                    "rugged": rng.gamma(1.2, 1.0, 170),
                    "rgdppc_2000": np.exp(log_gdp),
                }
            )
        years = np.arange(1700.5, 2020.5)
        spots = rng.gamma(1.5, 50.0, len(years))
        return pd.DataFrame({"time": years, "sunspot.year": spots})

    def load_news(self, **_: Any) -> dict[str, list[str]]:
        """Returns documents of words without meaning."""
        rng = self._random()
        words = [f"word{chr(97 + i)}{chr(97 + j)}" for i, j in np.ndindex(8, 8)]
        return {"data": [" ".join(rng.choice(words, 20)) for _ in range(300)]}

    def download_faces(self, address: str, path: str) -> None:
        """Writes images of 64 x 64 gray values, in place of Olivetti's."""
        faces = self._random().integers(20, 220, (20, 64 * 64))
        np.savetxt(path, faces, fmt="%d", delimiter=",")
