"""What is said where memory ends: how much was asked for, and what saves it."""

import re

import torch

from pyro_vae.cli.flags import CommandLine, list_flags, to_flag

# What arrays grow with, of all commands.
SIZES = (
    "batch_size",
    "num_particles",
    "hidden",
    "channels",
    "latent_dim",
    "num_components",
    "num_variables",
    "coupling_units",
    "num_couplings",
    "num_samples",
    "gap_images",
    "ais_images",
    "limit",
)
# torch has a class for CUDA's memory alone.
FAILURE = re.compile(
    r"can't allocate memory|out of memory|alloc_failed|bad_alloc|"
    r"calculation overflowed|multiplication overflow|overflow when unpacking|"
    r"invalid shape dimension|negative dimension|larger than max_size|"
    r"vector::",
    re.IGNORECASE,
)
ASKED = re.compile(r"(?:tried|unable) to allocate ([\d.]+) (\w+)", re.I)


def explain_memory(error: Exception, command: CommandLine) -> str | None:
    """Returns the sentence on an error of memory; None for another error."""
    text = str(error)
    is_torchs = isinstance(error, RuntimeError | TypeError)
    if isinstance(error, MemoryError | torch.OutOfMemoryError) or (
        is_torchs and FAILURE.search(text)
    ):
        asked = ASKED.search(text)
        what = "there is not enough memory"
        if asked:
            number, unit = asked.groups()
            amount = f"{int(number):,}" if number.isdigit() else number
            what += f": {amount} {unit} were asked for at once"
        elif not isinstance(error, MemoryError) and "overflow" in text.lower():
            what += ": more was asked for than any machine can address"
    elif isinstance(error, OverflowError):
        what = f"a number is too large ({text})"
    else:
        return None
    return f"{what}; expected less: {advise(command)}"


def advise(command: CommandLine) -> str:
    """Returns which sizes to make smaller: those given, or all that can be."""
    sizes = [name for name in list_flags(command.kind) if name in SIZES]
    flags = [to_flag(name) for name in sizes]
    given = {word.split("=")[0] for word in command.words}
    flags = [flag for flag in flags if flag in given] or flags
    if not flags:
        return "use a machine with more memory"
    one_of = "one of " if len(flags) > 1 else ""
    return f"make {one_of}{', '.join(flags)} smaller"
