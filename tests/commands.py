"""Scripts and studies, run as a user runs them, in a folder of their own."""

import contextlib
import io
import os
import re
import runpy
import signal
import subprocess
import sys
import warnings
from pathlib import Path

import pytest
import torch

SCRIPTS = Path(__file__).parents[1] / "scripts"


def script(name, *arguments):
    return [sys.executable, str(SCRIPTS / name), *map(str, arguments)]


def environment(folder):
    """No MNIST, and no network to fetch it over."""
    nowhere = "http://127.0.0.1:9"
    return {
        **os.environ,
        "PYRO_VAE_DATA": str(folder / "data"),
        "http_proxy": nowhere,
        "https_proxy": nowhere,
        "COLUMNS": "200",
    }


def run(folder, name, *arguments):
    """Runs a script here, as a shell would, without a process's start."""
    out, err = io.StringIO(), io.StringIO()
    dtype, handler = torch.get_default_dtype(), signal.getsignal(signal.SIGINT)
    with (
        pytest.MonkeyPatch.context() as patch,
        warnings.catch_warnings(),
        contextlib.redirect_stdout(out),
        contextlib.redirect_stderr(err),
        pytest.raises(SystemExit) as end,
    ):
        patch.chdir(folder)
        for variable, value in environment(folder).items():
            patch.setenv(variable, value)
        patch.syspath_prepend(SCRIPTS)
        command = script(name, *arguments)
        patch.setattr(sys, "argv", command[1:])
        warnings.simplefilter("default")
        torch.set_default_dtype(torch.float32)
        try:
            runpy.run_path(command[1], run_name="__main__")
        finally:
            torch.set_default_dtype(dtype)
            signal.signal(signal.SIGINT, handler)
    return subprocess.CompletedProcess(
        command, end.value.code or 0, out.getvalue(), err.getvalue()
    )


def run_process(folder, name, *arguments):
    return subprocess.run(
        script(name, *arguments),
        cwd=folder,
        env=environment(folder),
        capture_output=True,
        text=True,
    )


def error_of(result) -> str:
    assert result.returncode == 2
    assert "Traceback" not in result.stderr
    return " ".join(re.sub(r"[╭╮╰╯─│]", " ", result.stderr).split())
