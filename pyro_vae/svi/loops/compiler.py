"""C for one machine: compiled by gcc, and kept in the user's cache folder."""

import ctypes
import functools
import os
import platform
import shutil
import subprocess
import sys
from hashlib import sha256
from pathlib import Path

from pyro_vae.files import (
    find_code_folder,
    make_code_folder,
    one_at_a_time,
)

FLAGS = [
    *(
        "-O1",
        "-ftree-vectorize",
        "-fvect-cost-model=dynamic",
        "-march=native",
        "-fopenmp",
        "-shared",
        "-fPIC",
        "-w",
    ),
    *("-fno-math-errno", "-fno-trapping-math", "-ffp-contract=off"),
    *("-fwrapv", "-x", "c"),
]
LIBRARIES = ["-lmvec", "-lm"]
SECONDS = 300  # for one run of the compiler


class CompilerError(Exception):
    """There is no compiler for the loops here, or it fails."""


@functools.cache
def find_compiler() -> str:
    """Returns the C compiler's path.

    Raises:
        CompilerError: Where there is none that makes whole vectors of glibc's
            functions: on a system other than Linux, or another processor.
    """
    path = shutil.which(os.environ.get("CC", "gcc"))
    if sys.platform != "linux" or platform.machine() != "x86_64" or not path:
        raise CompilerError("expected gcc on Linux, and an x86-64 processor")
    if "Free Software Foundation" not in _describe(path):
        raise CompilerError("expected gcc")
    return path


@functools.cache
def _describe(path: str) -> str:
    return subprocess.run(
        [path, "--version"], capture_output=True, text=True, check=False
    ).stdout


@functools.cache
def _describe_machine() -> str:
    """Returns what `-march=native` depends on."""
    try:
        text = Path("/proc/cpuinfo").read_text()
    except OSError:
        return platform.processor()
    kinds = ("model", "flags", "vendor", "cpu family")
    lines = [line for line in text.splitlines() if line.startswith(kinds)]
    return "\n".join(sorted(set(lines)))


def _list_flags() -> list[str]:
    wide = "avx512f" in _describe_machine()
    return [*FLAGS, *(["-mprefer-vector-width=512"] if wide else [])]


def load_library(source: str) -> ctypes.CDLL:
    """Compiles C, unless it has been compiled before, and loads it.

    Raises:
        CompilerError: If the compiler fails.
        OSError: If there is no folder to keep the library in.
    """
    compiler, flags = find_compiler(), _list_flags()
    facts = [source, *flags, _describe(compiler), _describe_machine()]
    name = sha256("\n".join(facts).encode()).hexdigest()
    folder = make_code_folder(find_code_folder())
    path = folder / f"{name}.so"
    if not path.exists():
        with one_at_a_time(folder / "waiting" / name):
            if not path.exists():
                _compile(compiler, flags, source, path)
    try:
        return ctypes.CDLL(str(path))
    except OSError as error:
        raise CompilerError(str(error)) from error


def _compile(compiler: str, flags: list[str], source: str, path: Path) -> None:
    partial = path.with_name(f"{path.name}.{os.getpid()}")
    command = [compiler, *flags, "-", "-o", str(partial), *LIBRARIES]
    try:
        subprocess.run(
            command,
            input=source,
            text=True,
            check=True,
            capture_output=True,
            timeout=SECONDS,
        )
        os.replace(partial, path)
    except subprocess.SubprocessError as error:
        said = getattr(error, "stderr", None) or str(error)
        raise CompilerError(str(said)) from error
    finally:
        partial.unlink(missing_ok=True)
