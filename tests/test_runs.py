"""A run's folder: what fit() writes there, and how it is read back."""

import gc
import json
import warnings
from dataclasses import asdict, replace
from pathlib import Path

import pytest
import torch

from pyro_vae import (
    MLP,
    VAE,
    BernoulliLikelihood,
    Config,
    FitConfig,
    GaussianLikelihood,
    LaplacePrior,
    NormalGuide,
    NormalPrior,
    VAEConfig,
    build,
    fit,
    load_vae,
    save_vae,
)
from pyro_vae.config import check_describes
from pyro_vae.runs.files import CHECKPOINT, PREVIOUS, FileError
from pyro_vae.runs.folder import (
    FIGURES,
    RunFolder,
    check_same_data,
    find_caveats,
    load_run,
    read_about,
)
from pyro_vae.runs.history import HISTORY, read_history, write_history
from pyro_vae.runs.models import BEST, CONFIG, WEIGHTS
from tests.models import fit_until, without_timing

VAE_CONFIG = VAEConfig(hidden=(8,))
FIT_CONFIG = FitConfig(epochs=1, limit=40, device="cpu")
REFERENCE = Path(__file__).parents[1] / "results" / "reference"
OLD_CONFIGS = sorted(REFERENCE.rglob(CONFIG))


@pytest.fixture
def few(digits):
    return digits.first(40)


def make(config=VAE_CONFIG):
    torch.manual_seed(0)
    return build(config, 64, (8, 8))


def make_by_hand(hidden=8):
    """A VAE that no configuration can rebuild."""
    return VAE(
        NormalPrior(2),
        GaussianLikelihood(MLP(2, 64, (hidden,), output_activation="sigmoid")),
        NormalGuide(MLP(64, 4, (hidden,))),
    )


def names_in(folder):
    return {path.name for path in folder.iterdir()}


def assert_same_weights(left, right):
    left, right = left.state_dict(), right.state_dict()
    assert left.keys() == right.keys()
    assert all(torch.equal(left[name], right[name]) for name in left)


def test_a_fit_writes_a_whole_run_by_itself(few, tmp_path):
    folder = tmp_path / "runs" / "first"
    vae = make()
    records = list(fit(vae, few, FIT_CONFIG, str(folder)))
    assert names_in(folder) == {CONFIG, HISTORY, WEIGHTS, CHECKPOINT, PREVIOUS}
    assert_same_weights(load_vae(folder), vae)
    assert read_history(folder / HISTORY) == records
    run = load_run(folder)
    assert_same_weights(run.vae, vae)
    # `auto` has become the name of the data, which are found by it.
    expected = Config.of(VAE_CONFIG, replace(FIT_CONFIG, dataset="digits"))
    assert run.config == expected
    assert torch.equal(run.data.train, few.train)


def test_before_the_first_epoch_there_is_a_model(few, tmp_path):
    vae = make()
    records = fit(vae, few, FIT_CONFIG, tmp_path)
    assert names_in(tmp_path) == {CONFIG, WEIGHTS}
    assert_same_weights(load_vae(tmp_path), vae)
    list(records)


def test_the_run_says_where_it_came_from(few, tmp_path):
    notes = {"preset": "mine"}
    list(fit(make(), few, FIT_CONFIG, tmp_path, notes=notes))
    about = read_about(tmp_path)
    assert about["preset"] == "mine" and about["device"] == "cpu"
    assert about["data"] == few.describe() and about["caveats"] == []
    assert about["versions"]["torch"] == torch.__version__.split("+")[0]
    assert about["data_dim"] == 64 and about["image_shape"] == [8, 8]


@pytest.mark.parametrize("binarize", ["static", "dynamic"])
def test_a_run_on_binary_images_loads_them(few, tmp_path, binarize):
    """Given gray or drawn before, as the command line does."""
    vae_config = replace(VAE_CONFIG, likelihood="bernoulli")
    config = replace(FIT_CONFIG, binarize=binarize)
    drawn = few.binarize(binarize)
    for name, data in (("gray", few), ("drawn", drawn)):
        list(fit(make(vae_config), data, config, tmp_path / name))
        assert read_about(tmp_path / name)["caveats"] == []
        run = load_run(tmp_path / name)
        assert torch.equal(run.data.train, drawn.train)
        assert torch.equal(run.data.test, drawn.test)


def test_gray_pixels_under_a_bernoulli_are_a_caveat(few, tmp_path):
    config = replace(VAE_CONFIG, likelihood="bernoulli")
    vae = make(config)
    (caveat,) = find_caveats(vae, few)
    assert "gray pixels under a Bernoulli are not a likelihood" in caveat
    assert not find_caveats(vae, few.binarize("static"))
    assert not find_caveats(make(), few)
    by_hand = VAE(
        NormalPrior(2), BernoulliLikelihood(MLP(2, 64)), NormalGuide(MLP(64, 4))
    )
    assert find_caveats(by_hand, few) == [caveat]
    list(fit(vae, few, FIT_CONFIG, tmp_path))
    assert read_about(tmp_path)["caveats"] == [caveat]
    with pytest.warns(UserWarning, match=f"{tmp_path.name}: gray pixels"):
        load_run(tmp_path)


def test_a_run_on_other_data_is_refused(few, digits, tmp_path):
    list(fit(make(), few, FIT_CONFIG, tmp_path))
    check_same_data(tmp_path, few)
    inverted = replace(few, train=1 - few.train)
    with pytest.raises(ValueError, match=r"the data are .*but the run in"):
        check_same_data(tmp_path, inverted)
    with pytest.raises(ValueError, match=r"the data are .*but the run in"):
        fit(make(), inverted, FIT_CONFIG, tmp_path, resume=True)
    about = read_about(tmp_path)
    about["config"]["limit"] = 30
    (tmp_path / CONFIG).write_text(json.dumps(about))
    with pytest.raises(ValueError, match=r"'num_train': 30.*'num_train': 40"):
        load_run(tmp_path)


def test_what_is_no_run_is_refused(tmp_path):
    with pytest.raises(FileError, match="there is no file"):
        load_run(tmp_path)
    save_vae(make(), tmp_path)
    with pytest.raises(FileError, match="describes no run; expected one that"):
        load_run(tmp_path)


def test_a_folder_that_holds_a_run_is_not_written_over(few, tmp_path):
    list(fit(make(), few, FIT_CONFIG, tmp_path))
    before = {path: path.read_bytes() for path in tmp_path.iterdir()}
    with pytest.raises(ValueError, match="exists; expected a new folder: go"):
        fit(make(), few, FIT_CONFIG, tmp_path)
    with pytest.raises(ValueError, match="resume and overwrite were given"):
        fit(make(), few, FIT_CONFIG, tmp_path, resume=True, overwrite=True)
    assert {path: path.read_bytes() for path in tmp_path.iterdir()} == before


def test_overwriting_removes_a_runs_files_and_no_others(few, tmp_path):
    stopping = replace(FIT_CONFIG, early_stopping=2)
    list(fit(make(), few, stopping, tmp_path))
    (tmp_path / "notes.txt").write_text("mine")
    (tmp_path / FIGURES).mkdir()
    assert BEST in names_in(tmp_path)
    other = VAEConfig(hidden=(5,))
    records = fit(make(other), few, FIT_CONFIG, tmp_path, overwrite=True)
    assert names_in(tmp_path) == {"notes.txt", CONFIG, WEIGHTS}
    list(records)
    assert load_run(tmp_path).config.hidden == (5,)
    assert len(read_history(tmp_path / HISTORY)) == 2


def test_what_a_fit_did_not_write_is_not_removed(few, tmp_path):
    (tmp_path / "thesis.txt").write_text("mine")
    with pytest.raises(ValueError, match="holds no run; expected a folder"):
        fit(make(), few, FIT_CONFIG, tmp_path, overwrite=True)
    assert names_in(tmp_path) == {"thesis.txt"}
    file = tmp_path / "thesis.txt"
    for options in ({}, {"overwrite": True}, {"resume": True}):
        with pytest.raises(ValueError, match="a file; expected a folder"):
            fit(make(), few, FIT_CONFIG, file, **options)
    assert file.read_text() == "mine"


def test_a_resumed_run_is_whole_again(few, tmp_path):
    config = replace(FIT_CONFIG, epochs=2, batch_size=20)
    whole = without_timing(fit(make(), few, config))
    fit_until(3, make(), few, config, tmp_path)
    stopped = load_vae(tmp_path)
    vae = make()
    list(fit(vae, few, config, tmp_path, resume=True))
    assert without_timing(read_history(tmp_path / HISTORY)) == whole
    assert_same_weights(load_vae(tmp_path), vae)
    with pytest.raises(AssertionError):
        assert_same_weights(stopped, vae)


def test_resuming_where_there_is_no_run_starts_one(few, tmp_path):
    folder = tmp_path / "new"
    records = list(fit(make(), few, FIT_CONFIG, folder, resume=True))
    assert [record["epoch"] for record in records] == [0, 1]
    assert load_run(folder).config.hidden == (8,)


def test_a_vae_of_ones_own_leaves_its_history_and_can_be_resumed(few, tmp_path):
    config = replace(FIT_CONFIG, epochs=2, batch_size=20)
    torch.manual_seed(0)
    whole = without_timing(fit(make_by_hand(), few, config))
    torch.manual_seed(0)
    fit_until(3, make_by_hand(), few, config, tmp_path)
    assert names_in(tmp_path) == {HISTORY, CHECKPOINT, PREVIOUS}
    list(fit(make_by_hand(), few, config, tmp_path, resume=True))
    assert without_timing(read_history(tmp_path / HISTORY)) == whole
    again = fit(make_by_hand(), few, config, tmp_path, overwrite=True)
    assert names_in(tmp_path) == set()
    list(again)


def test_a_model_round_trips_alone(tmp_path):
    vae = make(VAEConfig(hidden=(5, 4), latent_dim=3))
    save_vae(vae, tmp_path / "new", about={"data": {"name": "digits"}})
    assert names_in(tmp_path / "new") == {CONFIG, WEIGHTS}
    loaded = load_vae(tmp_path / "new")
    assert_same_weights(loaded, vae)
    assert loaded.recipe["config"] == vae.recipe["config"]
    content = json.loads((tmp_path / "new" / CONFIG).read_text())
    assert content["data"] == {"name": "digits"}
    with pytest.raises(FileError, match=f"there is no file .*{BEST}"):
        load_vae(tmp_path / "new", best=True)
    with pytest.raises(ValueError, match="expected one made by build"):
        save_vae(make_by_hand(), tmp_path)


def test_the_best_weights_are_those_of_the_best_epoch(few, tmp_path):
    config = replace(FIT_CONFIG, epochs=0, early_stopping=3)
    untrained = make()
    list(fit(make(), few, config, tmp_path))
    folder = RunFolder(tmp_path)
    other = make()
    with torch.no_grad():
        for param in other.parameters():
            param.add_(1.0)
    folder.save_best(other)
    assert_same_weights(load_vae(tmp_path), untrained)
    assert_same_weights(load_vae(tmp_path, best=True), other)
    assert_same_weights(load_run(tmp_path, best=True).vae, other)


def test_a_model_of_another_version_that_cannot_be_rebuilt(tmp_path):
    vae = make()
    vae.recipe = {**vae.recipe, "config": {"prior": "gauss"}}
    save_vae(vae, tmp_path)
    with pytest.raises(FileError, match="'gauss'; expected one of normal"):
        load_vae(tmp_path)
    vae.recipe = {"config": asdict(Config())}
    save_vae(vae, tmp_path)
    with pytest.raises(FileError, match="does not describe its own model"):
        load_vae(tmp_path)


def test_there_are_old_runs():
    assert len(OLD_CONFIGS) >= 10


@pytest.mark.parametrize("path", OLD_CONFIGS, ids=lambda path: path.parent.name)
def test_the_choices_of_older_runs_are_read(path):
    """Flat keys, of versions that had fewer; the rest are defaults."""
    about = read_about(path.parent)
    config = Config.from_dict(about["config"])
    assert Config.of(config) == config
    for name, value in about["config"].items():
        kept = getattr(config, name)
        assert (list(kept) if isinstance(kept, tuple) else kept) == value
    vae = build(config, about["data_dim"], about.get("image_shape"))
    assert vae.recipe["config"] == asdict(config)


def test_a_history_round_trips_exactly(tmp_path):
    records = [{"epoch": 0, "test_elbo": 1 / 3}, {"epoch": 1, "test_elbo": 2.0}]
    write_history(tmp_path / HISTORY, records)
    assert read_history(tmp_path / HISTORY) == records
    for text in ("", "a,b\n1,2\n", "epoch,test_elbo\n1,x\n"):
        (tmp_path / HISTORY).write_text(text)
        with pytest.raises(FileError, match="history"):
            read_history(tmp_path / HISTORY)


def test_choices_that_describe_another_vae_are_refused(few, tmp_path):
    built = make(VAEConfig(prior="laplace", prior_scale=0.7, hidden=(8,)))
    config = Config(
        prior="laplace", prior_scale=0.7, hidden=(8,), epochs=0, device="cpu"
    )
    assert list(fit(built, few, config))
    assert list(fit(built, few, Config(epochs=0, device="cpu")))
    for name, value in (("prior_scale", 0.6), ("hidden", (9,))):
        other = replace(config, **{name: value})
        with pytest.raises(ValueError, match=f"^{name} is .* was built with"):
            fit(built, few, other, tmp_path / "run")
    assert not (tmp_path / "run").exists()


@pytest.mark.parametrize(
    ("choices", "fault"),
    [
        ({"prior": "laplace"}, "prior=laplace, .*its prior is NormalPrior"),
        (
            {"likelihood": "bernoulli"},
            "likelihood=bernoulli, .*its likelihood is GaussianLikelihood",
        ),
        ({"guide": "full"}, "guide=full, .*its guide is NormalGuide"),
        (
            {"gradient": "score-function"},
            "gradient=score-function, .*its gradient is Pathwise",
        ),
        ({"inference": "local"}, "inference=local, .*inference is Amortized"),
        ({"latent_dim": 3}, "latent_dim=3, .* has shape"),
        ({"hidden": (9,)}, r"hidden=\(9,\), .* has shape \(8, 2\)"),
    ],
)
def test_choices_that_do_not_describe_ones_own_vae_are_refused(
    few, choices, fault
):
    config = Config(device="cpu", **{"hidden": (8,), **choices})
    with pytest.raises(ValueError, match=f"{fault}.*; expected choices that"):
        fit(make_by_hand(), few, config)
    check_describes(replace(Config(), hidden=(8,)), make_by_hand())
    check_describes(Config(), make_by_hand())  # which describes none
    check_describes(FitConfig(), make_by_hand())


def test_ones_own_parts_are_not_held_to_a_configuration():
    class Mine(LaplacePrior):
        """A class that no configuration can name."""

    vae = make_by_hand()
    by_hand = VAE(Mine(2), vae.likelihood, vae.guide.distribution)
    check_describes(Config(prior="laplace", hidden=(8,)), by_hand)
    encoder = torch.nn.Sequential(torch.nn.Linear(64, 4))  # tells no size
    by_hand = VAE(NormalPrior(2), vae.likelihood, NormalGuide(encoder))
    check_describes(Config(hidden=(8,)), by_hand)
    decoder = torch.nn.Sequential(torch.nn.Linear(2, 64))
    by_hand = VAE(
        NormalPrior(2),
        GaussianLikelihood(decoder, "diagonal", torch.full((64,), 0.5)),
        NormalGuide(encoder),
    )
    check_describes(Config(noise="diagonal", hidden=(8,)), by_hand)


def test_a_fit_that_nobody_iterates_over_warns(few):
    vae = make()
    before = {name: p.clone() for name, p in vae.state_dict().items()}
    with pytest.warns(UserWarning, match="fit.. was called, but its records"):
        fit(vae, few, FIT_CONFIG)
        gc.collect()
    assert all(torch.equal(before[k], p) for k, p in vae.state_dict().items())
    with warnings.catch_warnings(record=True) as caught:
        warnings.simplefilter("always")
        next(fit(vae, few, FIT_CONFIG))
        gc.collect()
    assert not caught
