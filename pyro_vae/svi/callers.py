"""Whose code it is that asks for a tensor's value while a graph is recorded."""

import ast
import functools
import linecache
from sys import _getframe as get_frame
from typing import Any

from pyro_vae.svi.places import is_foreign


def _find_caller() -> Any:
    """Returns the frame of whoever asks torch for something, or None."""
    frame: Any = get_frame(1)
    while frame is not None and _is_between(frame):
        frame = frame.f_back
    return frame


def _is_between(frame: Any) -> bool:
    name = frame.f_globals.get("__name__", "")
    return name.split(".")[0] == "torch" or name.startswith("pyro_vae.svi")


def is_asserted() -> bool:
    """Returns whether the line that is under way is an assertion."""
    frame = _find_caller()
    if frame is None:
        return False
    spans = _list_assertions(frame.f_code.co_filename)
    return any(first <= frame.f_lineno <= last for first, last in spans)


@functools.cache
def _list_assertions(path: str) -> list[tuple[int, int]]:
    """Returns the first and the last lines of a file's assertions."""
    try:
        tree = ast.parse("".join(linecache.getlines(path)))
    except SyntaxError:
        return []
    return [
        (node.lineno, node.end_lineno or node.lineno)
        for node in ast.walk(tree)
        if isinstance(node, ast.Assert)
    ]


def is_asked_by_user() -> bool:
    """Returns whether the user's code asks for a value, and not Pyro's."""
    frame = _find_caller()
    return frame is not None and not is_foreign(
        frame.f_globals.get("__name__", "")
    )
