"""A real browser for the pages that the program writes."""

import shutil
from pathlib import Path

import pytest

CHROMIUM = shutil.which("chromium") or shutil.which("chromium-browser")
# Chromium keeps looking up its maker's hosts unless it is told not to.
ARGUMENTS = [
    "--no-sandbox",
    "--disable-gpu",
    "--disable-background-networking",
    "--disable-component-update",
    "--disable-sync",
    "--no-first-run",
]


class OpenedPage:
    """What a browser saw of a file: `console` errors, `requests` that leave the page, `page`."""

    def __init__(self, page, path: Path) -> None:
        self.console: list[str] = []
        self.requests: list[str] = []
        address = path.resolve().as_uri()
        page.on("console", lambda m: m.type == "error" and self.console.append(m.text))
        page.on("pageerror", lambda error: self.console.append(str(error)))
        page.on("request", lambda r: self._note(r.url, address))
        page.goto(address)
        page.wait_for_load_state("load")
        self.page = page

    def _note(self, url: str, address: str) -> None:
        if url != address and not url.startswith("data:"):
            self.requests.append(url)

    def broken_pictures(self) -> list[str]:
        return self.page.evaluate(
            "[...document.images].filter(i => !i.complete || !i.naturalWidth).map(i => i.alt)"
        )


@pytest.fixture
def open_page():
    """Callable that opens a file in headless chromium and returns an `OpenedPage`."""
    if CHROMIUM is None:
        pytest.skip("Debian's chromium is not installed (apt-get install chromium)")
    from playwright.sync_api import sync_playwright

    with sync_playwright() as playwright:
        browser = playwright.chromium.launch(executable_path=CHROMIUM, args=ARGUMENTS)
        yield lambda path: OpenedPage(browser.new_page(), path)
        browser.close()
