"""A headless browser, where there is one, and a page in it."""

import importlib.util
import shutil
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import pytest

NAMES = ("chromium", "chromium-browser", "google-chrome", "chrome")


def find_browser() -> str:
    """Returns the path of a Chromium; skips the test where there is none."""
    found = [path for name in NAMES if (path := shutil.which(name))]
    if not found:
        pytest.skip("no Chromium on the path: apt-get install chromium")
    if importlib.util.find_spec("playwright") is None:
        pytest.skip("no playwright: python -m pip install playwright")
    return found[0]


class Visit:
    """A page that is open, and what it said and asked for.

    Attributes:
        page: The page, as playwright has it.
        complaints: Errors, and messages to the console.
        requests: The addresses that were asked for, but for the page's own.
    """

    def __init__(self, page: Any):
        self.page = page
        self.complaints: list[str] = []
        self.requests: list[str] = []
        page.on("console", self._hear)
        page.on("pageerror", lambda error: self.complaints.append(str(error)))
        page.on("request", lambda request: self.requests.append(request.url))

    def _hear(self, message: Any) -> None:
        if message.type == "error":
            self.complaints.append(message.text)

    def open(self, path: Path) -> None:
        """Opens a file, and waits until it has shown everything."""
        self.page.goto(path.as_uri())
        self.page.wait_for_selector("body[data-ready]")
        assert self.requests.pop(0) == path.as_uri()

    def run(self, code: str, argument: Any = None) -> Any:
        """Runs a function of the page's own JavaScript."""
        return self.page.evaluate(code, argument)

    def text(self, selector: str) -> str:
        """Returns what an element says."""
        return self.page.inner_text(selector)

    def is_pressed(self, selector: str) -> bool:
        """Returns whether a button is pressed."""
        return self.page.get_attribute(selector, "aria-pressed") == "true"


@contextmanager
def open_browser() -> Iterator[Any]:
    """Opens a headless browser, as playwright has it."""
    path = find_browser()
    from playwright.sync_api import sync_playwright

    with sync_playwright() as playwright:
        browser = playwright.chromium.launch(
            executable_path=path, args=["--no-sandbox"]
        )
        yield browser
        browser.close()
