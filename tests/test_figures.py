import io
import re
from itertools import combinations
from pathlib import Path

import amortization_figure
import benchmark_figure
import gradient_estimators_figure
import numpy as np
import pandas as pd
import pytest
import torch
from matplotlib import colormaps
from matplotlib.colors import to_hex, to_rgb
from PIL import Image

import pyro_vae
from pyro_vae import Config, build, figures
from pyro_vae.figures import plots
from pyro_vae.figures.questions import find_white
from pyro_vae.figures.style import PALETTE

PACKAGE = Path(pyro_vae.__file__).parent


@pytest.fixture
def rng():
    return np.random.default_rng(0)


def texts_of(axes):
    return [text.get_text() for text in axes.texts]


def sheet(figure):
    (image,) = figure.axes[0].get_images()
    return np.asarray(image.get_array())


def test_images_stand_in_rows_upright(rng):
    images = rng.random((6, 20))
    figure = figures.image_grid(images, (4, 5), columns=3, title="Six")
    drawn = sheet(figure)
    gap = 1
    assert drawn.shape == (2 * (4 + gap) + gap, 3 * (5 + gap) + gap)
    for index, image in enumerate(images):
        row, column = divmod(index, 3)
        top, left = gap + row * (4 + gap), gap + column * (5 + gap)
        part = drawn[top : top + 4, left : left + 5]
        assert np.array_equal(part, image.reshape(4, 5))
    is_white = drawn == 1
    assert is_white[:: 4 + gap].all() and is_white[:, :: 5 + gap].all()
    assert figure.axes[0].get_title() == "Six"


@pytest.mark.parametrize("columns", [3, 10])
def test_no_gap_is_wider_than_another(columns):
    images = np.zeros((2 * columns, 28 * 28))
    figure = figures.image_grid(images, (28, 28), columns, "Black")
    with Image.open(io.BytesIO(figure._repr_png_())) as drawn:
        pixels = np.asarray(drawn.convert("L"))
    row = pixels[int(0.7 * len(pixels))]  # through the second row of images
    edges = np.flatnonzero(np.diff((row < 128).astype(int)))
    widths = np.diff(edges)
    assert len(widths) == 2 * columns - 1
    assert len(set(widths[::2])) == 1 and len(set(widths[1::2])) == 1


def test_images_and_rows_have_names():
    images = np.zeros((4, 4))
    figure = figures.image_grid(images, (2, 2), 2, "", "abcd", ["c0", "c1"])
    axes = figure.axes[0]
    assert texts_of(axes) == ["a", "b", "c", "d"]
    assert [tick.get_text() for tick in axes.get_yticklabels()] == ["c0", "c1"]
    assert axes.get_yticks().tolist() == [1.5, 4.5]
    assert axes.texts[3].xy == (4, 4)


def test_values_beyond_the_unit_interval_are_clipped():
    images = np.array([[-1.0, 0.25, 0.5, 2.0]])
    drawn = sheet(figures.image_grid(images, (2, 2), 2, "Clipped"))
    assert drawn[1:3, 1:3].tolist() == [[0, 0.25], [0.5, 1]]


def test_the_largest_count_is_white(monkeypatch):
    brightest = []

    def keep(images, *_):
        brightest.append(np.nanmax(images))

    monkeypatch.setattr(plots, "image_grid", keep)
    vae = build(Config(likelihood="poisson", hidden=(4,)), 64)
    x = torch.zeros(4, 64)
    x[2] = 20.0
    plots.plot_reconstructions(vae, x)
    vae.likelihood.usual_size.fill_(64_000.0)  # about 1,000 a pixel
    plots.plot_samples(vae, 5)
    assert brightest == pytest.approx([1.0, 1.0], rel=0.2)
    hidden = torch.tensor([[torch.nan, 3.0]])
    assert find_white(hidden) == 3.0 and find_white(hidden[:0]) == 1.0


def test_images_in_color(rng):
    images = rng.random((4, 48))
    drawn = sheet(figures.image_grid(images, (3, 4, 4), 2, "Color"))
    assert drawn.shape == (11, 11, 3)
    assert np.array_equal(
        drawn[6:10, 1:5], images[2].reshape(3, 4, 4).transpose(1, 2, 0)
    )


@pytest.mark.parametrize("channels", [(), (3,)])
@pytest.mark.parametrize("count", [1, 2, 4, 5])
def test_a_row_that_is_not_full_is_white(count, channels):
    shape = (*channels, 4, 5)
    images = np.zeros((count, int(np.prod(shape))))
    drawn = sheet(figures.image_grid(images, shape, 4, "Few"))
    rows = -(-count // 4)
    assert drawn.shape == (rows * 5 + 1, 4 * 6 + 1, *channels)
    assert (drawn == 0).sum() == images.size
    assert (drawn[-5:, 1 + 6 * ((count - 1) % 4 + 1) :] == 1).all()


def test_the_manifold_grows_to_the_right_and_upwards():
    z = np.array([[-3.0, -1.0], [2.0, 4.0], [0.0, 0.0]])
    seen = []

    def generate(latents):
        seen.append(latents)
        low, high = z.min(0), z.max(0)
        return ((latents - low) / (high - low))[:, [0, 1, 0, 1]]

    figure = figures.manifold(generate, z, (2, 2), size=5)
    grid = seen[0].reshape(5, 5, 2)
    assert grid[0, 0].tolist() == [-3, 4] and grid[0, 4].tolist() == [2, 4]
    assert grid[4, 0].tolist() == [-3, -1] and grid[4, 4].tolist() == [2, -1]
    axes = figure.axes[0]
    ticks = [label.get_text() for label in axes.get_yticklabels()]
    positions = axes.get_yticks()
    assert ticks[0] == "4.0" and ticks[-1] == "-1.0"
    assert positions[0] < positions[-1]  # image rows count downwards
    assert axes.get_ylabel() == "$z_2$" and axes.get_xlabel() == "$z_1$"


@pytest.mark.parametrize("shape", [(8, 8), (28, 28), (6, 9), (3, 28, 28)])
def test_ticks_of_the_manifold_point_at_the_centers_of_images(shape):
    z = np.array([[-3.0, -1.0], [2.0, 4.0]])

    def generate(latents):
        return np.zeros((len(latents), int(np.prod(shape))))

    axes = figures.manifold(generate, z, shape, size=5).axes[0]
    drawn = np.asarray(axes.get_images()[0].get_array())
    is_black = (drawn == 0).reshape(*drawn.shape[:2], -1).all(-1)
    for ticks, black, side in (
        (axes.get_xticks(), is_black.any(0), shape[-1]),
        (axes.get_yticks(), is_black.any(1), shape[-2]),
    ):
        pixels = np.flatnonzero(black).reshape(5, side)
        assert np.allclose(ticks, pixels.mean(1))


def test_beyond_two_dimensions_the_plane_is_that_of_the_components(rng):
    along, across = rng.normal(size=(2, 500, 1))
    directions = np.array([[3.0, 4.0, 0.0], [0.0, 0.0, 1.0]]) / [[5.0], [1.0]]
    center = np.array([1.0, 2.0, 3.0])
    z = center + 5 * along * directions[0] + across * directions[1]
    plane = figures.latent_plane(z)
    assert np.allclose(
        np.abs(plane.directions @ directions.T), np.eye(2), atol=0.05
    )
    assert np.allclose(plane.lift(plane.project(z)), z)
    figure = figures.latent_scatter(z, None)
    assert "principal component" in figure.axes[0].get_title()
    assert figure.axes[0].get_xlabel() == "first principal component"
    figure = figures.manifold(lambda z: rng.random((len(z), 4)), z, (2, 2), 3)
    assert "principal component" in figure.axes[0].get_title()


def test_one_dimension(rng):
    z = rng.normal(size=(50, 1))
    seen = []
    figures.manifold(lambda z: seen.append(z) or z[:, [0] * 4], z, (2, 2), 4)
    assert np.allclose(seen[0][:, 0], np.linspace(z.min(), z.max(), 4))
    figure = figures.latent_scatter(z, np.arange(50) % 3)
    assert figure.axes[0].get_ylabel() == "label"


def legend_of(axes):
    """The color and the shape of each name in a legend."""
    legend = axes.get_legend()
    return {
        text.get_text(): (to_hex(handle.get_color()), handle.get_marker())
        for text, handle in zip(
            legend.get_texts(), legend.legend_handles, strict=True
        )
    }


def test_points_have_the_color_of_their_label_in_the_legend(rng):
    labels = np.array([7, 3, 3, 7, 9])
    z = rng.normal(size=(5, 2))
    axes = figures.latent_scatter(z, labels).axes[0]
    by_label = legend_of(axes)
    assert list(by_label) == ["3", "7", "9"]
    (points,) = axes.collections
    drawn = [tuple(place) for place in points.get_offsets().tolist()]
    assert sorted(drawn) == sorted(map(tuple, z.tolist()))
    for place, color in zip(drawn, points.get_facecolors(), strict=True):
        label = labels[z.tolist().index(list(place))]
        assert by_label[str(label)][0] == to_hex(color[:3])


def test_the_colors_are_those_of_the_explorer():
    text = (PACKAGE / "explorer" / "page" / "colors.js").read_text()
    light = text.split("const LIGHT = [")[1].split("]")[0]
    assert re.findall(r"#[0-9a-f]{6}", light) == list(PALETTE)


# What people without one kind of cones see of linear RGB, by G. M. Machado,
# M. M. Oliveira and L. A. F. Fernandes, 2009; and the way to CIE XYZ.
SIGHTS = {
    "all": np.eye(3),
    "no red": [
        [0.152, 1.053, -0.205],
        [0.115, 0.786, 0.099],
        [-0.004, -0.048, 1.052],
    ],
    "no green": [
        [0.367, 0.861, -0.228],
        [0.280, 0.673, 0.047],
        [-0.012, 0.043, 0.969],
    ],
    "no blue": [
        [1.256, -0.077, -0.179],
        [-0.078, 0.931, 0.148],
        [0.005, 0.691, 0.304],
    ],
}
XYZ = np.array(
    [
        [0.4339, 0.3763, 0.1899],
        [0.2126, 0.7152, 0.0722],
        [0.0177, 0.1095, 0.8729],
    ]
)


def least_difference(colors, sight):
    """The least distance of two colors in CIELAB, as somebody sees them."""
    rgb = np.array([to_rgb(color) for color in colors])
    linear = np.where(
        rgb <= 0.04045, rgb / 12.92, ((rgb + 0.055) / 1.055) ** 2.4
    )
    x, y, z = np.cbrt(XYZ @ np.clip(np.array(sight) @ linear.T, 1e-3, 1))
    lab = np.stack([116 * y, 500 * (x - y), 200 * (y - z)], axis=1)
    return min(
        np.linalg.norm(one - other) for one, other in combinations(lab, 2)
    )


@pytest.mark.parametrize("sight", SIGHTS.values(), ids=SIGHTS)
def test_everybody_can_tell_the_colors_apart(sight):
    assert least_difference(PALETTE, sight) > 12


def test_the_usual_colors_fail_for_the_color_blind():
    usual = colormaps["tab10"].colors
    assert least_difference(usual, SIGHTS["no green"]) < 10


def test_thirty_labels_are_told_apart_by_color_and_shape(rng):
    labels = np.arange(30)
    axes = figures.latent_scatter(rng.normal(size=(30, 2)), labels).axes[0]
    assert len(set(legend_of(axes).values())) == 30


def test_a_label_is_written_where_its_own_points_are_densest(rng):
    close = 0.1 * rng.normal(size=(300, 2))
    z = np.concatenate([close, close + 5, np.array([5, 0]) + close[:100]])
    labels = np.repeat([0, 1, 0], [300, 300, 100])
    axes = figures.latent_scatter(z, labels).axes[0]
    places = {text.get_text(): text.get_position() for text in axes.texts}
    assert np.allclose(places["0"], [0, 0], atol=0.3)
    assert np.allclose(places["1"], [5, 5], atol=0.3)


def records(offset=0.0, epochs=4):
    return [
        {"epoch": e, "train_elbo": e, "test_elbo": e + offset, "seconds": 2 * e}
        for e in range(epochs)
    ]


def test_the_elbo_curves_leave_out_the_untrained_model():
    figure = figures.elbo_curves(records())
    lines = figure.axes[0].get_lines()
    assert [line.get_xdata().tolist() for line in lines] == [[1, 2, 3]] * 2
    assert "0.0 before training, 3.0 at the end" in figure.axes[0].get_title()
    assert len(figures.elbo_curves(records(epochs=1)).axes[0].get_lines()) == 2


def history(offset, epochs=4):
    rows = records(offset, epochs)
    return {key: np.array([row[key] for row in rows]) for key in rows[0]}


def test_runs_of_a_group_become_a_mean_and_a_band():
    groups = {"a": [history(0), history(2, epochs=6)], "b": [history(1)]}
    epochs, seconds = figures.compare_histories(groups).axes
    first, second = epochs.get_lines()
    assert first.get_ydata().tolist() == [2, 3, 4]  # the common epochs
    assert second.get_ydata().tolist() == [2, 3, 4]
    assert len(epochs.collections) == 1
    assert seconds.get_lines()[0].get_xdata().tolist() == [2, 4, 6]
    assert [text.get_text() for text in seconds.texts] == ["a (2)", "b"]


@pytest.mark.parametrize(("count", "has_color_bar"), [(30, 0), (31, 1)])
def test_many_labels_get_a_color_bar(rng, count, has_color_bar):
    points, labels = rng.normal(size=(count, 2)), np.arange(count)
    figure = figures.latent_scatter(points, labels)
    assert len(figure.axes) == 1 + has_color_bar
    assert (figure.axes[0].get_legend() is None) == has_color_bar


def test_a_component_is_an_ellipse_of_two_standard_deviations(rng):
    components = np.array([[1.0, 2.0]]), np.array([[0.5, 3.0]])
    figure = figures.latent_scatter(rng.normal(size=(9, 2)), None, components)
    axes = figure.axes[0]
    (drawn,) = axes.patches
    assert [text.get_text() for text in axes.texts] == ["c0"]
    (name,) = axes.get_legend().get_texts()
    assert "two standard" in name.get_text()
    corners = drawn.get_patch_transform().transform(drawn.get_path().vertices)
    assert np.allclose(corners.min(0), [1 - 2 * 0.5, 2 - 2 * 3.0])
    assert np.allclose(corners.max(0), [1 + 2 * 0.5, 2 + 2 * 3.0])


def test_states_are_stacked_by_label_with_the_fullest_first():
    states, labels = np.array([2, 0, 2, 2]), np.array([7, 7, 9, 7])
    axes = figures.state_usage(states, labels, num_states=5).axes[0]
    heights = [[bar.get_height() for bar in bars] for bars in axes.containers]
    assert heights == [[2, 1], [1, 0]]  # of label 7, then of label 9
    assert [tick.get_text() for tick in axes.get_xticklabels()] == ["2", "0"]
    assert axes.get_title().startswith("2 of 5 states")


def panel(number):
    line = np.linspace(-3, 3, 61)
    z = np.stack(np.meshgrid(line, line, indexing="ij"), axis=-1)
    density = np.exp(-(z**2).sum(-1) / 2)
    normals = {"guide": (np.zeros(2), np.eye(2))}
    return figures.Panel(f"{number}", np.zeros((4, 4)), z, density, normals)


@pytest.mark.parametrize("count", [1, 6])
def test_posteriors_stand_four_to_a_row(count):
    figure = figures.posterior_panels([panel(i) for i in range(count)])
    assert len(figure.axes) == -(-count // 4) * 4
    titles = [axes.get_title("right") for axes in figure.axes]
    assert titles[:count] == [str(i) for i in range(count)]
    (legend,) = figure.legends
    names = [text.get_text() for text in legend.get_texts()]
    assert names[:2] == ["guide, two sd", "50 % of the exact posterior"]
    # The contour that holds half of a standard normal's mass.
    (contours,) = figure.axes[0].collections
    inner = contours.get_paths()[-1].vertices
    radius = np.hypot(*inner.T).max()
    assert abs(radius - np.sqrt(2 * np.log(2))) < 0.1  # the grid's spacing


def test_every_gap_stands_in_a_bar():
    approximation = np.append(np.geomspace(0.1, 1, 98), [-0.5, 50.0])
    figure = figures.gap_histogram(approximation, np.zeros(100))
    first, second = figure.axes[0].containers
    assert sum(bar.get_height() for bar in first) == 100
    assert first[0].get_height() == first[-1].get_height() == 1
    assert second[0].get_height() == 100
    names = [text.get_text() for text in figure.legends[0].get_texts()]
    assert names[1] == "amortization, mean 0.00 nats"


@pytest.mark.parametrize("exact", [None, -95.0])
def test_the_bound_curve_shows_the_exact_value_where_it_is_known(exact):
    bounds, errors = np.array([-100.0, -97.0]), np.ones(2)
    axes = figures.bound_curve([1, 10], bounds, errors, exact).axes[0]
    lines = {line.get_label(): line for line in axes.get_lines()}
    assert ("exact" in lines) == (exact is not None)
    assert ("exact log p(x), -95.0" in texts_of(axes)) == (exact is not None)
    assert "importance bound, -97.0" in texts_of(axes)
    assert axes.get_xscale() == "log"


def test_the_figure_of_the_amortization_study():
    table = pd.DataFrame(
        {
            "inference": ["amortized"] * 2 + ["local, 5"] * 2,
            "epoch": [1, 2, 1, 2],
            "train_seconds": [1.0, 2.0, 10.0, 20.0],
            "test_elbo": [-120.0, -100.0, -110.0, -90.0],
            "log_marginal_likelihood": [np.nan, -95.0, np.nan, -85.0],
        }
    )
    figure = amortization_figure.draw_amortization(table)
    drawn = [
        [(*line.get_xdata(), *line.get_ydata()) for line in axes.get_lines()]
        for axes in figure.axes
    ]
    assert drawn == [
        [(1, 2, -120, -100), (10, 20, -110, -90)],
        [(1, 2, -120, -100), (1, 2, -110, -90)],
        [(2, -95), (20, -85)],
    ]


def test_the_figure_of_the_benchmark():
    rows = [
        {"what": what, "batch_size": size, "rival": rival, "ms": ms}
        for what, sizes in (("normal", (32, 128)), ("mixture", (128,)))
        for size in sizes
        for rival, ms in (("pyro_vae", size / 32), ("SVI", size / 8))
    ]
    figure = benchmark_figure.draw_benchmark(pd.DataFrame(rows), "SVI")
    normal, mixture, lines = figure.axes
    assert normal.get_title() == "normal, batch 128"
    assert mixture.get_title() == "mixture, batch 128"
    assert [bar.get_width() for bar in normal.patches] == [4, 16]
    assert normal.texts[0].get_text() == "4.00 ms, 4.0x"
    assert [line.get_label() for line in lines.get_lines()] == [
        "pyro_vae",
        "SVI",
    ]


def test_the_figure_of_the_gradient_estimators_study():
    rows = [
        {
            "estimator": estimator,
            "block": block,
            "bias_along": 0.5,
            "bias_along_se": 0.1,
            "variance": variance,
            "ms": 2.0,
        }
        for estimator, variance in (("enumerated", 1e-15), ("pathwise", 4.0))
        for block in ("encoder", "decoder")
    ]
    table = pd.DataFrame(rows)
    figure = gradient_estimators_figure.draw_gradient_estimators(table)
    bias, variance, cost = figure.axes
    names = [tick.get_text() for tick in bias.get_yticklabels()]
    assert names == ["enumerated", "pathwise"]
    widths = np.array([bar.get_width() for bar in variance.patches])
    # Without variance there is no bar: that of rounding errors would mislead.
    assert np.isnan(widths[[0, 2]]).all() and (widths[[1, 3]] == 4).all()
    assert [bar.get_width() for bar in cost.patches] == [2, 2]
