"""The page's own files, and its modules as one script."""

import re
from functools import cache
from graphlib import TopologicalSorter
from importlib.resources import files

FIRST = "main.js"
IMPORT = re.compile(r'^import \{[^}]*\} from "\./([\w.]+)";\n', re.M)
EXPORT = re.compile(r"^export (?=(?:async )?(?:function|class|const) )", re.M)


def read_part(name: str) -> str:
    """Returns a file of the folder `page`."""
    path = files("pyro_vae.explorer").joinpath("page", name)
    return path.read_text(encoding="utf-8")


@cache
def read_script() -> str:
    """Returns the JavaScript modules as one, each after those it imports.

    They share one scope, so that no two may declare the same name; a browser
    refuses it if they do.
    """
    imports: dict[str, list[str]] = {}
    _collect(FIRST, imports)
    order = TopologicalSorter(imports).static_order()
    return "\n".join(_strip(read_part(name)) for name in order)


def _collect(name: str, imports: dict[str, list[str]]) -> None:
    if name not in imports:
        imports[name] = IMPORT.findall(read_part(name))
        for other in imports[name]:
            _collect(other, imports)


def _strip(code: str) -> str:
    return EXPORT.sub("", IMPORT.sub("", code))
