"""What a benchmark was run on."""

import os
import platform
from collections.abc import Mapping
from importlib.metadata import PackageNotFoundError, version
from typing import Any

import torch

PACKAGES = ("torch", "pyro-ppl", "jax", "numpyro", "pyro-vae")


def describe_machine() -> str:
    """Returns the processor, and what torch uses of it, in words."""
    capabilities: Mapping[str, Any] = {}
    if hasattr(torch.cpu, "get_capabilities"):  # older torch lacks it
        capabilities = torch.cpu.get_capabilities()
    return (
        f"{capabilities.get('cpu_name') or platform.machine()}, "
        f"{os.cpu_count()} cores, {torch.get_num_threads()} threads, "
        f"{torch.backends.cpu.get_cpu_capability()}"
    )


def describe_versions() -> str:
    """Returns the versions of Python and of the rivals, in words."""
    found = [f"python {platform.python_version()}"]
    for package in PACKAGES:
        try:
            found.append(f"{package} {version(package)}")
        except PackageNotFoundError:
            continue
    return ", ".join(found)
