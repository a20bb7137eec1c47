import pytest
import torch
from safetensors.torch import save_file

from pyro_vae.runs import files
from pyro_vae.runs.files import (
    CHECKPOINT,
    PREVIOUS,
    FileError,
    load_checkpoint,
    read_json,
    read_tensors,
    save_checkpoint,
    write_json,
)

TENSORS = {
    "a": torch.arange(6.0).reshape(2, 3),
    "scalar": torch.tensor(3.0),
    "state": torch.arange(5, dtype=torch.uint8),
    "empty": torch.zeros(0, 2),
}
TENSORS["tied"] = TENSORS["a"].t()


def write_tensors(path, tensors, state):
    path.write_bytes(files.pack_tensors(tensors, state, "model"))


def test_tensors_and_state_round_trip(tmp_path):
    path = tmp_path / "file"
    write_tensors(path, TENSORS, {"epoch": 3, "elbo": 0.1})
    tensors, state = read_tensors(path, "model")
    assert state == {"epoch": 3, "elbo": 0.1}
    assert set(tensors) == set(TENSORS)
    for name, tensor in TENSORS.items():
        assert torch.equal(tensors[name], tensor)
        assert tensors[name].dtype == tensor.dtype
    assert [p.name for p in tmp_path.iterdir()] == ["file"]


def test_another_kind_and_another_file_are_refused(tmp_path):
    path = tmp_path / "file"
    write_tensors(path, TENSORS, {})
    with pytest.raises(FileError, match="is no pyro_vae checkpoint"):
        read_tensors(path, "checkpoint")
    save_file({"a": torch.ones(2)}, path)
    with pytest.raises(FileError, match="expected one that pyro_vae wrote"):
        read_tensors(path, "model")
    with pytest.raises(FileError, match="there is no file"):
        read_tensors(tmp_path / "none", "model")


def test_any_flipped_byte_is_noticed(tmp_path):
    path = tmp_path / "file"
    write_tensors(path, {"a": torch.arange(3.0)}, {"epoch": 3})
    content = path.read_bytes()
    for position in range(len(content)):
        damaged = bytearray(content)
        damaged[position] ^= 0x10
        path.write_bytes(damaged)
        try:
            tensors, state = read_tensors(path, "model")
        except FileError:
            continue
        # What got through must be what was written (JSON's white space).
        assert state == {"epoch": 3}
        assert torch.equal(tensors["a"], torch.arange(3.0))


@pytest.mark.parametrize("length", [0, 5, 100, -1])
def test_a_damaged_checkpoint_is_named_and_the_previous_one_used(
    tmp_path, length
):
    for epoch in (1, 2, 3):
        save_checkpoint(tmp_path, TENSORS, {"epoch": epoch})
    content = (tmp_path / CHECKPOINT).read_bytes()
    (tmp_path / CHECKPOINT).write_bytes(content[:length])
    with pytest.warns(UserWarning, match=f"{CHECKPOINT} is damaged.*using"):
        _, state = load_checkpoint(tmp_path)
    assert state["epoch"] == 2
    (tmp_path / PREVIOUS).write_bytes(b"")
    with pytest.raises(FileError, match="no checkpoint is left"):
        load_checkpoint(tmp_path)


def test_a_crash_while_writing_leaves_the_previous_one(tmp_path, monkeypatch):
    save_checkpoint(tmp_path, TENSORS, {"epoch": 1})

    def crash(*_):
        raise KeyboardInterrupt

    monkeypatch.setattr(files, "write_atomically", crash)
    with pytest.raises(KeyboardInterrupt):
        save_checkpoint(tmp_path, TENSORS, {"epoch": 2})
    monkeypatch.undo()
    assert load_checkpoint(tmp_path)[1] == {"epoch": 1}
    save_checkpoint(tmp_path, TENSORS, {"epoch": 2})
    assert load_checkpoint(tmp_path)[1] == {"epoch": 2}


def test_no_checkpoint(tmp_path):
    assert load_checkpoint(tmp_path) is None


def test_json(tmp_path):
    write_json(tmp_path / "a.json", {"a": [1, None]})
    assert read_json(tmp_path / "a.json") == {"a": [1, None]}
    (tmp_path / "a.json").write_text("[1]")
    with pytest.raises(FileError, match="holds no JSON object"):
        read_json(tmp_path / "a.json")
    (tmp_path / "a.json").write_bytes(b"\xff{")
    with pytest.raises(FileError, match="cannot be read as JSON"):
        read_json(tmp_path / "a.json")
