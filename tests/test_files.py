"""Files written whole or not at all, and a folder for code that is run."""

import fcntl
import os
import pwd
import stat
import warnings
from types import SimpleNamespace

import pytest
import torch
from torch._inductor import codecache

from pyro_vae import files
from pyro_vae.svi import compile_graph
from pyro_vae.svi.loops import compiler
from pyro_vae.svi.loops.compiler import CompilerError
from tests.models import use_inductor


@pytest.fixture(autouse=True)
def forgotten():
    files.make_code_folder.cache_clear()
    yield
    files.make_code_folder.cache_clear()


def test_a_link_is_replaced_and_not_followed(tmp_path):
    other = tmp_path / "other"
    other.write_text("mine")
    partial = f"model.{os.getpid()}{files.PARTIAL}"
    for name in ("model", partial):
        (tmp_path / name).symlink_to(other)
    files.write_atomically(tmp_path / "model", b"new")
    assert other.read_text() == "mine"
    assert (tmp_path / "model").read_text() == "new"
    assert not (tmp_path / "model").is_symlink()
    assert not (tmp_path / partial).exists()


def test_two_processes_that_write_one_file_do_not_meet(tmp_path, monkeypatch):
    path, usual = tmp_path / "model", os.fsync

    def write_another(descriptor):
        monkeypatch.setattr(os, "fsync", usual)
        monkeypatch.setattr(os, "getpid", lambda: 0)
        files.write_atomically(path, b"another's, which is longer")
        usual(descriptor)

    monkeypatch.setattr(os, "fsync", write_another)
    files.write_atomically(path, b"this one's")
    assert path.read_text() == "this one's"
    assert list(tmp_path.iterdir()) == [path]


def test_what_a_crash_left_of_a_file_is_removed(tmp_path):
    for name in ("model.7.partial", "model.x", "my model.7.partial"):
        (tmp_path / name).touch()
    files.remove_partials(tmp_path / "model")
    left = {path.name for path in tmp_path.iterdir()}
    assert left == {"model.x", "my model.7.partial"}


@pytest.mark.parametrize("fails", ["fsync", "replace"])
def test_a_failure_leaves_the_old_file(tmp_path, monkeypatch, fails):
    path = tmp_path / "model"
    path.write_text("old")

    def fail(*args):
        raise OSError("no space left")

    monkeypatch.setattr(os, fails, fail)
    with pytest.raises(OSError, match="no space"):
        files.write_atomically(path, b"new")
    assert path.read_text() == "old"
    monkeypatch.undo()
    files.write_atomically(path, b"newer")  # over what the failure left
    assert path.read_text() == "newer"


def test_content_and_name_reach_the_disk_in_order(tmp_path, monkeypatch):
    steps = []
    for name in ("fsync", "replace"):
        original = getattr(os, name)

        def note(*args, name=name, original=original):
            steps.append(name)
            return original(*args)

        monkeypatch.setattr(os, name, note)
    files.write_atomically(tmp_path / "model", b"new")
    assert steps == ["fsync", "replace", "fsync"]


def test_a_new_folder_is_the_users_alone(tmp_path):
    folder = tmp_path / "cache" / "code"
    assert files.make_code_folder(folder) == folder
    assert stat.S_IMODE(folder.stat().st_mode) == 0o700


@pytest.mark.parametrize("mode", [0o770, 0o777, 0o1777, 0o720])
def test_a_folder_that_others_can_write_to_is_not_used(tmp_path, mode):
    folder = tmp_path / "code"
    folder.mkdir()
    folder.chmod(mode)
    with pytest.warns(
        UserWarning, match=f"other users can write to .*{mode:o}"
    ):
        used = files.make_code_folder(folder)
    assert used != folder and not any(folder.iterdir())
    assert stat.S_IMODE(used.stat().st_mode) == 0o700


def test_a_folder_that_others_can_replace_is_not_used(tmp_path):
    shared = tmp_path / "shared"
    shared.mkdir()
    shared.chmod(0o777)
    with pytest.warns(UserWarning, match="other users can replace"):
        files.make_code_folder(shared / "code")
    shared.chmod(0o1777)  # sticky, as the system's folder is
    files.make_code_folder.cache_clear()
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        assert files.make_code_folder(shared / "code") == shared / "code"


@pytest.mark.parametrize("members", [[], ["somebody"]])
@pytest.mark.parametrize("name", ["users", None])
def test_a_folder_that_a_group_can_replace_is_not_used(
    tmp_path, monkeypatch, name, members
):
    user = pwd.getpwuid(os.getuid()).pw_name
    group = SimpleNamespace(gr_name=name or user, gr_mem=[user, *members])
    monkeypatch.setattr(files.grp, "getgrgid", lambda number: group)
    shared = tmp_path / "shared"
    shared.mkdir()
    shared.chmod(0o770)
    if name is None and not members:  # the user's own group
        assert files.make_code_folder(shared / "code") == shared / "code"
        return
    with pytest.warns(UserWarning, match="other users can replace"):
        files.make_code_folder(shared / "code")


def test_a_folder_of_another_user_is_not_used(tmp_path, monkeypatch):
    monkeypatch.setattr(os, "getuid", lambda: 1 + tmp_path.stat().st_uid)
    with pytest.warns(UserWarning, match="belongs to the user of number"):
        assert files.make_code_folder(tmp_path / "code") != tmp_path / "code"


def test_a_link_to_a_folder_that_others_can_write_to_is_not_used(tmp_path):
    target = tmp_path / "target"
    target.mkdir()
    target.chmod(0o777)
    (tmp_path / "code").symlink_to(target)
    with pytest.warns(UserWarning, match="other users can write"):
        files.make_code_folder(tmp_path / "code")


def test_a_folder_that_cannot_be_made_is_named(tmp_path):
    (tmp_path / "file").write_text("")
    with pytest.warns(UserWarning, match="cannot be made"):
        files.make_code_folder(tmp_path / "file" / "code")


@pytest.mark.parametrize("chosen", [False, True])
@pytest.mark.parametrize("by", ["loops", "Inductor"])
def test_what_is_compiled_is_kept_in_the_users_folder(
    tmp_path, monkeypatch, chosen, by
):
    if by == "Inductor":
        use_inductor(monkeypatch)
    name = "TORCHINDUCTOR_CACHE_DIR"
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path / "home"))
    monkeypatch.delenv(name, raising=False)
    folder = tmp_path / "home" / "pyro_vae" / "compiled"
    if chosen:
        folder = tmp_path / "chosen"
        monkeypatch.setenv(name, str(folder))
    guessable = tmp_path / "guessable"
    monkeypatch.setenv("TMPDIR", str(tmp_path))
    monkeypatch.setattr(codecache, "_HEADER_DIR", str(guessable))
    monkeypatch.setattr(codecache, "_HEADER_LOCK_DIR", str(guessable))
    codecache._precompile_header.cache_clear()
    compiled = compile_graph(
        lambda x: [(x + chosen).sin().cos()], [torch.ones(3)]
    )
    torch.testing.assert_close(
        compiled(torch.zeros(3)), [torch.full((3,), float(chosen)).sin().cos()]
    )
    assert list(folder.rglob("*.so"))
    assert bool(list(folder.rglob("*.gch"))) == (by == "Inductor")
    assert not guessable.exists()
    assert str(guessable) == codecache._HEADER_DIR
    if chosen:
        assert os.environ[name] == str(folder)


@pytest.mark.parametrize("by", ["loops", "Inductor"])
def test_the_folder_is_checked_before_each_compilation(
    tmp_path, monkeypatch, by
):
    if by == "Inductor":
        use_inductor(monkeypatch)
    folder = tmp_path / "code"
    folder.mkdir()
    folder.chmod(0o777)
    monkeypatch.setenv("TORCHINDUCTOR_CACHE_DIR", str(folder))
    with pytest.warns(UserWarning, match="TORCHINDUCTOR_CACHE_DIR"):
        compile_graph(lambda x: [x.sin().tan()], [torch.ones(3)])
    assert not any(folder.iterdir())


def test_processes_compile_the_same_graph_one_by_one(tmp_path, monkeypatch):
    monkeypatch.setenv("TORCHINDUCTOR_CACHE_DIR", str(tmp_path / "cache"))
    held = []

    def look():
        for path in (tmp_path / "cache" / "waiting").iterdir():
            with open(path) as file:
                try:
                    fcntl.flock(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
                except BlockingIOError:
                    held.append(path.name)

    def compile_it(graph, inputs, options):
        look()
        return graph

    def compile_loops(compiler, flags, source, path):
        look()
        raise CompilerError("none")

    monkeypatch.setattr(torch._inductor, "compile", compile_it)
    monkeypatch.setattr(compiler, "_compile", compile_loops)
    for number in (1, 1, 2):
        compile_graph(lambda x: [x + number], [torch.ones(2)])  # noqa: B023
    loops, graphs = held[::2], held[1::2]
    for names in (loops, graphs):
        # The same graph has the same name, whatever process it is of.
        assert len(names) == 3
        assert names[0] == names[1] != names[2]
