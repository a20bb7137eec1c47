"""What the machine is said to have."""

from pyro_vae import machine


def test_the_machines_memory(monkeypatch, tmp_path):
    whole = machine.find_memory()
    assert 1e8 < whole < 1e14
    limit = tmp_path / "memory.max"
    monkeypatch.setattr(machine, "LIMITS", (str(limit),))
    for text, memory in (("max\n", whole), ("12345\n", 12345)):
        limit.write_text(text)
        assert machine.find_memory() in (memory, whole)
    assert machine.find_memory() == 12345
    monkeypatch.delattr(machine.os, "sysconf")
    assert machine.find_memory() == float("inf")
