"""Figures of a VAE in one line, and the examples of all figures."""

import doctest
import warnings

import numpy as np
import pytest
import torch
from matplotlib.figure import Figure

from pyro_vae import Config, build, figures
from pyro_vae.cli.drawing import draw_images
from pyro_vae.figures import history, images, latents, plots, posteriors, usage

MODULES = (history, images, latents, plots, posteriors, usage)
NO_ARRAYS = {"Panel", "Plane", "latent_plane"}


def make(data, **choices):
    return build(Config(hidden=(8,), **choices), data.data_dim)


@pytest.mark.parametrize("module", MODULES, ids=lambda module: module.__name__)
def test_the_examples_run(module, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    torch.set_default_dtype(torch.float32)
    failed, tried = doctest.testmod(module)
    assert tried and not failed


def test_every_function_has_an_example():
    for name in set(figures.__all__) - NO_ARRAYS:
        assert "Examples:" in getattr(figures, name).__doc__, name


def test_a_figure_shows_itself(digits):
    figure = figures.plot_samples(make(digits), n=20)
    assert isinstance(figure, Figure)
    assert figure._repr_png_().startswith(b"\x89PNG")


def test_the_latents_are_the_centers_of_q(digits):
    vae, x, labels = make(digits), digits.test[:50], digits.test_labels[:50]
    (points,) = figures.plot_latents(vae, x, labels).axes[0].collections
    drawn = np.sort(np.asarray(points.get_offsets()), axis=0)
    expected = vae.infer(x).mean.detach().numpy()
    assert np.allclose(drawn, np.sort(expected, axis=0))


def test_a_mixtures_ellipses_are_at_its_components(digits):
    vae = make(digits, prior="mixture", num_components=3)
    axes = figures.plot_latents(vae, digits.test[:50]).axes[0]
    centers = [patch.get_center() for patch in axes.patches]
    assert np.allclose(centers, vae.prior().loc.detach().numpy())


def test_a_square_is_the_shape_unless_another_fits(digits):
    vae = make(digits)
    figures.plot_manifold(vae, digits.test[:50], (4, 16), size=3)
    with pytest.raises(ValueError, match=r"image_shape is \(3, 5\) for images"):
        figures.plot_samples(vae, image_shape=(3, 5))


def test_what_a_figure_cannot_draw_is_refused(digits):
    discrete = make(digits, prior="categorical")
    for draw in (figures.plot_latents, figures.plot_manifold):
        with pytest.raises(ValueError, match="use plot_usage"):
            draw(discrete, digits.test)
    figures.plot_components(discrete, digits.test)


def test_drawing_changes_neither_the_vae_nor_the_randomness(digits):
    vae, state = make(digits).train(), torch.get_rng_state()
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        figures.plot_samples(vae)
        figures.plot_reconstructions(vae, digits.test[:20])
    assert vae.training and torch.equal(state, torch.get_rng_state())


@pytest.mark.parametrize("how", ["none", "dynamic", "static"])
def test_a_binarized_run_shows_binary_images(digits, how):
    sheet = draw_images(make(digits), digits.binarize(how))["data"]
    (image,) = sheet.axes[0].get_images()
    assert (set(np.unique(image.get_array())) <= {0, 1}) == (how != "none")
