import numpy as np
import pytest

from pyro_vae import figures

RNG = np.random.default_rng(0)


def sheet(figure):
    (image,) = figure.axes[0].get_images()
    return np.asarray(image.get_array())


def test_images_stand_in_rows_upright():
    images = np.zeros((6, 20))
    images[4, 0] = 1.0  # the upper left pixel of the second row's second image
    figure = figures.image_grid(images, (4, 5), columns=3, title="Six")
    drawn = sheet(figure)
    assert drawn.shape == (2 * 5, 3 * 6)
    assert drawn[5, 6] == 1 and drawn[5, 7] == 0
    assert figure.axes[0].get_title() == "Six"


def test_coloured_images():
    figure = figures.image_grid(RNG.random((4, 48)), (4, 4, 3), 2, "Colour")
    assert sheet(figure).shape == (10, 10, 3)


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


def test_beyond_two_dimensions_the_plane_is_that_of_the_components():
    along, across = RNG.normal(size=(2, 500, 1))
    directions = np.array([[3.0, 4.0, 0.0], [0.0, 0.0, 1.0]]) / [[5.0], [1.0]]
    center = np.array([1.0, 2.0, 3.0])
    z = center + 5 * along * directions[0] + across * directions[1]
    plane = figures.latent_plane(z)
    assert np.allclose(np.abs(plane.axes @ directions.T), np.eye(2), atol=0.05)
    assert np.allclose(plane.lift(plane.project(z)), z)
    figure = figures.latent_scatter(z, None)
    assert "principal component" in figure.axes[0].get_title()
    assert figure.axes[0].get_xlabel() == "first principal component"
    figure = figures.manifold(lambda z: RNG.random((len(z), 4)), z, (2, 2), 3)
    assert "principal component" in figure.axes[0].get_title()


def test_one_dimension():
    z = RNG.normal(size=(50, 1))
    seen = []
    figures.manifold(lambda z: seen.append(z) or z[:, [0] * 4], z, (2, 2), 4)
    assert np.allclose(seen[0][:, 0], np.linspace(z.min(), z.max(), 4))
    figure = figures.latent_scatter(z, np.arange(50) % 3)
    assert figure.axes[0].get_ylabel() == "label"


def test_points_have_the_colour_of_their_label_in_the_legend():
    labels = np.array([7, 3, 3, 7, 9])
    figure = figures.latent_scatter(RNG.normal(size=(5, 2)), labels)
    axes = figure.axes[0]
    colors = axes.collections[0].get_facecolors()[:, :3]
    legend = axes.get_legend()
    by_label = {
        text.get_text(): handle.get_color()[:3]
        for text, handle in zip(
            legend.get_texts(), legend.legend_handles, strict=True
        )
    }
    assert list(by_label) == ["3", "7", "9"]
    for label, color in zip(labels, colors, strict=True):
        assert np.allclose(by_label[str(label)], color)


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


def trace(offset, epochs=4):
    rows = records(offset, epochs)
    return {key: np.array([row[key] for row in rows]) for key in rows[0]}


def test_runs_of_a_group_become_a_mean_and_a_band():
    groups = {"a": [trace(0), trace(2, epochs=6)], "b": [trace(1)]}
    epochs, seconds = figures.compare_traces(groups).axes
    first, second = epochs.get_lines()
    assert first.get_ydata().tolist() == [2, 3, 4]  # the common epochs
    assert second.get_ydata().tolist() == [2, 3, 4]
    assert len(epochs.collections) == 1
    assert seconds.get_lines()[0].get_xdata().tolist() == [2, 4, 6]
    assert first.get_label() == "a (2)"


@pytest.mark.parametrize("count", [25])
def test_many_labels_get_a_colour_bar(count):
    figure = figures.latent_scatter(RNG.normal(size=(count, 2)), range(count))
    assert len(figure.axes) == 2
