"""Figures of data and runs whose names are no words."""

import io
import os
import sys
from pathlib import Path

import numpy as np
import pytest

from pyro_vae import figures
from pyro_vae.data import load

NAMES = [b"a$b^$.npy", b"$_$.npy", b"a\xff.npy", b"a\nb.npy", b"$\\frac$.npy"]


def draw(figure):
    file = io.BytesIO()
    figure.savefig(file, format="png")
    assert file.getvalue()
    return figure


@pytest.mark.skipif(sys.platform != "linux", reason="names are not bytes")
@pytest.mark.parametrize("name", NAMES)
def test_a_file_of_any_name_is_drawn(tmp_path, name):
    path = Path(os.fsdecode(os.path.join(os.fsencode(tmp_path), name)))
    np.save(path, np.random.default_rng(0).random((9, 4, 4)))
    data = load(path)
    title = f"Images of {data.name}"
    images = data.train.numpy()
    figure = draw(figures.image_grid(images, data.image_shape, 3, title))
    assert figure.axes[0].get_title() == title


@pytest.mark.parametrize("name", NAMES)
def test_runs_of_any_name_are_compared(name):
    name = name.decode("utf-8", "surrogateescape")
    values = np.arange(3.0)
    history = {"epoch": values, "seconds": values, "test_elbo": values}
    figure = draw(figures.compare_histories({name: [history]}))
    (text,) = figure.axes[1].texts
    printed = name.encode("utf-8", "backslashreplace").decode()
    assert text.get_text() == printed


def test_panels_of_any_title_are_drawn():
    axis = np.linspace(-3, 3, 20)
    z = np.stack(np.meshgrid(axis, axis), -1)
    density = np.exp(-0.5 * (z**2).sum(-1))
    normals = {"a$^$": (np.zeros(2), np.eye(2))}
    panel = figures.Panel("$b^$", np.zeros((4, 4)), z, density, normals)
    figure = draw(figures.posterior_panels([panel]))
    title = figure.axes[0]._right_title
    for text in [title, *figure.legends[0].get_texts()]:
        assert not text.get_parse_math() and not text.get_usetex()


def test_formulas_of_our_own_stay_formulas():
    z = np.random.default_rng(0).normal(size=(9, 2))
    figure = draw(figures.latent_scatter(z, None))
    assert figure.axes[0].xaxis.label.get_parse_math()
