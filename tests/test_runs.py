"""A run's folder: what fit() writes there, and how it is read back."""

import gc
import json
import os
import shutil
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
from pyro_vae.files import PARTIAL
from pyro_vae.runs.files import (
    CHECKPOINT,
    PREVIOUS,
    FileError,
    load_checkpoint,
    read_tensors,
    save_checkpoint,
)
from pyro_vae.runs.folder import FIGURES
from pyro_vae.runs.history import (
    HISTORY,
    KEYS,
    read_history,
    write_history,
)
from pyro_vae.runs.lock import LOCK, FolderLock
from pyro_vae.runs.manifest import MANIFEST
from pyro_vae.runs.models import BEST, CONFIG, WEIGHTS, pack_vae
from pyro_vae.runs.run import (
    check_same_data,
    find_caveats,
    load_run,
    read_about,
    read_config,
)
from pyro_vae.training import trainer
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


def weights_in(path):
    return {
        name: t.tolist() for name, t in read_tensors(path, "model")[0].items()
    }


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
    assert names_in(folder) == {
        *(CONFIG, HISTORY, WEIGHTS, CHECKPOINT, PREVIOUS, MANIFEST)
    }
    assert_same_weights(load_vae(folder), vae)
    assert read_history(folder / HISTORY) == records
    run = load_run(folder)
    assert_same_weights(run.vae, vae)
    # `auto` has become the name of the data, which are found by it.
    expected = Config.of(VAE_CONFIG, replace(FIT_CONFIG, dataset="digits"))
    assert run.config == expected
    assert torch.equal(run.data.train, few.train)


def test_before_the_first_record_there_is_nothing(few, tmp_path):
    records = fit(make(), few, FIT_CONFIG, tmp_path)
    assert names_in(tmp_path) == {LOCK}
    with pytest.raises(FileError, match="there is no file"):
        load_vae(tmp_path)
    next(records)
    assert len(read_history(tmp_path / HISTORY)) == 1
    load_vae(tmp_path)
    list(records)


def test_a_fit_that_is_stopped_before_its_first_record_is_resumed(
    few, tmp_path
):
    assert not list(fit(make(), few, FIT_CONFIG, tmp_path, stop=lambda: True))
    assert names_in(tmp_path) == {CONFIG, CHECKPOINT, MANIFEST}
    with pytest.raises(FileError, match=f"there is no file .*{WEIGHTS}"):
        load_vae(tmp_path)
    records = list(fit(make(), few, FIT_CONFIG, tmp_path, resume=True))
    assert without_timing(records) == without_timing(
        fit(make(), few, FIT_CONFIG)
    )


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
    check_same_data(tmp_path, read_about(tmp_path), few)
    inverted = replace(few, train=1 - few.train)
    with pytest.raises(ValueError, match=r"the data are .*but the run in"):
        check_same_data(tmp_path, read_about(tmp_path), inverted)
    with pytest.raises(ValueError, match=r"the data are .*but the run in"):
        fit(make(), inverted, FIT_CONFIG, tmp_path, resume=True)
    about = read_about(tmp_path)
    about["config"]["limit"] = 30
    (tmp_path / CONFIG).write_text(json.dumps(about))
    with pytest.raises(FileError, match=r"config.json is not the file that"):
        load_run(tmp_path)
    (tmp_path / MANIFEST).unlink()  # as version 0.1 leaves a run
    with pytest.raises(ValueError, match=r"'num_train': 30.*'num_train': 40"):
        load_run(tmp_path)


def test_what_is_no_run_is_refused(tmp_path):
    with pytest.raises(FileError, match="there is no file"):
        load_run(tmp_path)
    save_vae(make(), tmp_path)
    with pytest.raises(FileError, match="describes no run: it has no object"):
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
    (tmp_path / "evaluation.csv").write_text("of the old run")
    before = {path.name: path.stat().st_size for path in tmp_path.iterdir()}
    records = fit(make(other), few, FIT_CONFIG, tmp_path, overwrite=True)
    # Until its first record, the new one might still come to nothing.
    assert names_in(tmp_path) == {*before, LOCK}
    next(records)
    assert names_in(tmp_path) == {
        *("notes.txt", CONFIG, WEIGHTS, HISTORY, CHECKPOINT, MANIFEST, LOCK)
    }
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


@pytest.mark.parametrize("name", [WEIGHTS, HISTORY])
def test_without_a_checkpoint_nothing_is_resumed_and_nothing_lost(
    few, tmp_path, name
):
    list(fit(make(), few, FIT_CONFIG, tmp_path))
    for path in tmp_path.iterdir():
        if path.name not in (name, CONFIG):
            path.unlink()
    before = (tmp_path / name).read_bytes()
    with pytest.raises(ValueError, match=f"has {name} and no checkpoint"):
        fit(make(), few, FIT_CONFIG, tmp_path, resume=True)
    assert (tmp_path / name).read_bytes() == before
    assert names_in(tmp_path) == {name, CONFIG}


def test_a_run_that_is_to_be_replaced_outlives_a_fit_that_is_stopped(
    few, tmp_path
):
    list(fit(make(), few, FIT_CONFIG, tmp_path))
    before = {path: path.read_bytes() for path in tmp_path.iterdir()}
    stopped = replace(FIT_CONFIG, epochs=9)
    options = {"overwrite": True, "stop": lambda: True}
    assert not list(fit(make(), few, stopped, tmp_path, **options))
    assert {path: path.read_bytes() for path in tmp_path.iterdir()} == before


def test_the_last_good_checkpoint_is_not_moved_away(few, tmp_path, monkeypatch):
    config = replace(FIT_CONFIG, epochs=3)
    list(fit(make(), few, FIT_CONFIG, tmp_path))
    (tmp_path / CHECKPOINT).write_bytes(b"damaged")
    with pytest.warns(UserWarning, match="is damaged"):
        records = fit(make(), few, config, tmp_path, resume=True)
    monkeypatch.setattr(os, "fsync", lambda *_: 1 / 0)
    with pytest.raises(ZeroDivisionError):
        next(records)
    monkeypatch.undo()
    assert len(list(fit(make(), few, config, tmp_path, resume=True))) == 3


def test_a_folder_that_was_taken_is_not_written_to(few, tmp_path):
    records = fit(make(), few, FIT_CONFIG, tmp_path / "run")
    next(records)
    shutil.rmtree(tmp_path / "run")
    other = fit(make(), few, FIT_CONFIG, tmp_path / "run")
    with pytest.raises(ValueError, match="deleted, or taken by another fit"):
        next(records)
    assert names_in(tmp_path / "run") == {LOCK}
    assert len(list(other)) == 2


@pytest.mark.parametrize("make_other", [os.mkfifo, None], ids=["pipe", "link"])
def test_what_is_no_lock_is_left_alone(few, tmp_path, make_other):
    lock, mine = tmp_path / LOCK, tmp_path / "mine"
    mine.write_text("mine")
    make_other(lock) if make_other else os.link(mine, lock)
    for _ in range(2):
        with pytest.raises(ValueError, match="is no file that a fit made"):
            fit(make(), few, FIT_CONFIG, tmp_path, resume=True)
    assert lock.exists() and mine.read_text() == "mine"


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
    assert names_in(tmp_path) == {HISTORY, CHECKPOINT, PREVIOUS, MANIFEST}
    list(fit(make_by_hand(), few, config, tmp_path, resume=True))
    assert without_timing(read_history(tmp_path / HISTORY)) == whole
    list(fit(make_by_hand(), few, config, tmp_path, overwrite=True))
    assert len(read_history(tmp_path / HISTORY)) == 3


def test_a_model_round_trips_alone(tmp_path):
    vae = make(VAEConfig(hidden=(5, 4), latent_dim=3))
    save_vae(vae, tmp_path / "new", about={"data": {"name": "digits"}})
    assert names_in(tmp_path / "new") == {CONFIG, WEIGHTS, MANIFEST}
    loaded = load_vae(tmp_path / "new")
    assert_same_weights(loaded, vae)
    assert loaded.recipe["config"] == vae.recipe["config"]
    content = json.loads((tmp_path / "new" / CONFIG).read_text())
    assert content["data"] == {"name": "digits"}
    with pytest.raises(FileError, match=f"there is no file .*{BEST}"):
        load_vae(tmp_path / "new", best=True)
    with pytest.raises(ValueError, match="expected one made by build"):
        save_vae(make_by_hand(), tmp_path)


def test_saving_and_loading_as_methods(tmp_path):
    vae = make()
    vae.save(tmp_path)
    assert_same_weights(VAE.load(tmp_path), vae)


def test_the_best_weights_come_back_from_the_checkpoint(
    few, tmp_path, monkeypatch
):
    # Of these few images, the last epoch is the best as a rule.
    monkeypatch.setattr(trainer, "best_epoch", lambda *_: 1)
    config = replace(FIT_CONFIG, epochs=3, early_stopping=9)
    list(fit(make(), few, config, tmp_path))
    best, content = weights_in(tmp_path / BEST), (tmp_path / BEST).read_bytes()
    assert best != weights_in(tmp_path / WEIGHTS)
    other = make()
    with torch.no_grad():
        for param in other.parameters():
            param.add_(1.0)
    for damage in (
        lambda path: path.unlink(),
        lambda path: path.write_bytes(pack_vae(other)),
        lambda path: path.write_bytes(content[:-5]),
    ):
        damage(tmp_path / BEST)
        with pytest.raises(FileError, match=BEST):
            load_run(tmp_path, best=True)
        list(fit(make(), few, config, tmp_path, resume=True))
        assert weights_in(tmp_path / BEST) == best
        load_run(tmp_path, best=True)


def test_the_best_weights_of_older_runs_are_taken_from_their_file(
    few, tmp_path
):
    config = replace(FIT_CONFIG, early_stopping=9)
    list(fit(make(), few, config, tmp_path))
    best = weights_in(tmp_path / BEST)
    tensors, state = load_checkpoint(tmp_path)
    older = {k: v for k, v in tensors.items() if not k.startswith("best.")}
    assert len(older) < len(tensors)
    save_checkpoint(tmp_path, older, state)
    more = replace(config, epochs=1)
    list(fit(make(), few, more, tmp_path, resume=True))
    assert weights_in(tmp_path / BEST) == best


@pytest.mark.parametrize("name", [CONFIG, HISTORY, WEIGHTS])
def test_a_file_that_was_changed_is_noticed_and_written_anew(
    few, tmp_path, name
):
    list(fit(make(), few, FIT_CONFIG, tmp_path))
    whole = (tmp_path / name).read_bytes()
    changed = whole.replace(b"1", b"2", 1)
    assert changed != whole
    (tmp_path / name).write_bytes(changed)
    with pytest.raises(FileError, match=f"{name} is not the file that belongs"):
        load_run(tmp_path)
        read_history(tmp_path / HISTORY)
    if name != CONFIG:
        list(fit(make(), few, FIT_CONFIG, tmp_path, resume=True))
        assert len(load_run(tmp_path).config.hidden) == 1
        assert len(read_history(tmp_path / HISTORY)) == 2


def test_a_model_that_is_saved_into_a_runs_folder_is_no_part_of_the_run(
    few, tmp_path
):
    list(fit(make(), few, FIT_CONFIG, tmp_path))
    save_vae(make(), tmp_path)
    load_vae(tmp_path)
    with pytest.raises(FileError, match="does not belong to the run"):
        read_history(tmp_path / HISTORY)
    more = replace(FIT_CONFIG, epochs=2)
    list(fit(make(), few, more, tmp_path, resume=True))
    assert len(read_history(tmp_path / HISTORY)) == 3
    assert read_about(tmp_path)["data"] == few.describe()


def test_a_second_fit_in_a_folder_is_refused_at_once(few, tmp_path):
    records = fit(make(), few, FIT_CONFIG, tmp_path)
    next(records)
    for options in ({"resume": True}, {"overwrite": True}, {}):
        with pytest.raises(ValueError, match="in use by a fit in this process"):
            fit(make(), few, FIT_CONFIG, tmp_path, **options)
    lock = tmp_path / LOCK
    lock.write_text(json.dumps({"process": 7, "host": "elsewhere"}))
    with pytest.raises(ValueError, match="fit in process 7 on elsewhere"):
        fit(make(), few, FIT_CONFIG, tmp_path, resume=True)
    del records  # as a loop that was left does
    assert LOCK not in names_in(tmp_path)
    list(fit(make(), few, FIT_CONFIG, tmp_path, resume=True))


@pytest.mark.skipif(not hasattr(os, "fork"), reason="it forks")
def test_a_process_that_was_forked_from_a_fit_leaves_its_lock(tmp_path):
    lock = FolderLock(tmp_path)
    child = os.fork()
    if child == 0:
        lock.release()
        os._exit(0)
    os.waitpid(child, 0)
    assert names_in(tmp_path) == {LOCK}
    with pytest.raises(ValueError, match="in use"):
        FolderLock(tmp_path)
    lock.release()
    assert not names_in(tmp_path)


def test_what_a_dead_fit_left_is_no_run(few, tmp_path):
    (tmp_path / LOCK).write_text("")
    (tmp_path / (f"{CONFIG}.1{PARTIAL}")).write_text("{")
    for options in ({}, {"overwrite": True}, {"resume": True}):
        with pytest.warns(UserWarning, match="were not iterated over"):
            fit(make(), few, FIT_CONFIG, tmp_path, **options)
            gc.collect()
    list(fit(make(), few, FIT_CONFIG, tmp_path))


def test_a_file_called_config_is_no_run(few, tmp_path):
    (tmp_path / CONFIG).write_text('{"mine": 1}')
    with pytest.raises(ValueError, match="holds no run"):
        fit(make(), few, FIT_CONFIG, tmp_path, overwrite=True)
    assert (tmp_path / CONFIG).read_text() == '{"mine": 1}'


def test_links_in_a_runs_folder_are_not_followed(few, tmp_path):
    folder, other = tmp_path / "run", tmp_path / "other"
    list(fit(make(), few, FIT_CONFIG, folder))
    other.mkdir()
    mine = other / "mine.txt"
    mine.write_text("mine")
    for name in (WEIGHTS, HISTORY, MANIFEST, f"{CHECKPOINT}.1{PARTIAL}"):
        (folder / name).unlink(missing_ok=True)
        (folder / name).symlink_to(mine)
    more = replace(FIT_CONFIG, epochs=2)
    list(fit(make(), few, more, folder, resume=True))
    (folder / FIGURES).symlink_to(other)
    (folder / PREVIOUS).unlink()
    (folder / PREVIOUS).symlink_to(mine)
    list(fit(make(), few, FIT_CONFIG, folder, overwrite=True))
    assert mine.read_text() == "mine" and names_in(other) == {"mine.txt"}
    assert not any(path.is_symlink() for path in folder.iterdir())
    (folder / LOCK).symlink_to(mine)
    with pytest.raises(ValueError, match=f"{LOCK} cannot be opened"):
        fit(make(), few, more, folder, resume=True)


@pytest.mark.parametrize(
    ("name", "value", "sentence"),
    [
        ("config", [], "no object 'config'"),
        ("config", {"epochs": "many"}, "entry 'config' of .*config.json"),
        ("config", {"hidden": {"a": 1}}, "entry 'config' of .*config.json"),
        ("config", {"batch_size": None}, "entry 'config' of .*config.json"),
        ("config", {"prior": ["normal"]}, "entry 'config' of .*config.json"),
        ("config", {"what": 1}, "entry 'config' of .*config.json"),
        ("data", 3, "no object 'data'"),
        ("caveats", {"a": 1}, "entry 'caveats' of .*config.json"),
        ("caveats", [1], "entry 'caveats' of .*config.json"),
    ],
)
def test_what_is_wrong_in_a_configuration_is_named(
    few, tmp_path, name, value, sentence
):
    list(fit(make(), few, FIT_CONFIG, tmp_path))
    about = read_about(tmp_path)
    (tmp_path / MANIFEST).unlink()
    (tmp_path / CONFIG).write_text(json.dumps({**about, name: value}))
    with pytest.raises(FileError, match=sentence):
        read_config(tmp_path)


@pytest.mark.parametrize(
    "content", ["[" * 100_000, "9" * 5000, "[1]", "\x00", '{"a":']
)
def test_what_is_no_json_object_is_named(tmp_path, content):
    (tmp_path / CONFIG).write_text(content)
    with pytest.raises(FileError, match=CONFIG):
        read_about(tmp_path)


@pytest.mark.parametrize(
    ("content", "sentence"),
    [
        (b"\xff\xfe", "cannot be read as a history"),
        (b"epoch,step\n0,0\n", "expected a row for each epoch"),
        (b'epoch,step\n"' + b"x" * 200_000 + b'",1\n', "as a history"),
        (b"epoch,step\n0,1e999\n", "line 2 .* '1e999' in the column 'step'"),
        (b"epoch,step\n0,nan\n", "line 2 .* 'nan' in the column 'step'"),
        (b"epoch,step\n0,1,2\n", "line 2"),
        (b"epoch,step\n0\n", "line 2"),
    ],
)
def test_what_is_wrong_in_a_history_is_named(tmp_path, content, sentence):
    (tmp_path / HISTORY).write_bytes(content)
    with pytest.raises(FileError, match=sentence) as caught:
        read_history(tmp_path / HISTORY)
    assert HISTORY in str(caught.value) and len(str(caught.value)) < 400


@pytest.mark.parametrize(
    "change",
    [
        lambda state: state.pop("position"),
        lambda state: state.pop("lasting"),
        lambda state: state.update(position=3),
        lambda state: state.update(lasting=[]),
        lambda state: state["position"].update(records=[3]),
        lambda state: state["position"].update(records=None),
        lambda state: state["position"].update(epoch="x"),
        lambda state: state["position"].update(what=1),
    ],
)
def test_what_is_wrong_in_a_checkpoint_is_named(few, tmp_path, change):
    list(fit(make(), few, FIT_CONFIG, tmp_path))
    tensors, state = load_checkpoint(tmp_path)
    change(state)
    save_checkpoint(tmp_path, tensors, state)
    with pytest.raises(FileError, match="the checkpoint in"):
        fit(make(), few, FIT_CONFIG, tmp_path, resume=True)


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
    first = {key: 1 / 3 for key in sorted(KEYS)} | {"epoch": 0.0}
    records = [first, first | {"epoch": 1.0}]
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
