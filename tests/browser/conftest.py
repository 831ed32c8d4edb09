"""A real browser, where one is installed: Chromium, driven by playwright. `make test-browser` asks for both."""

import os
import shutil

import pytest


NAMES = ("chromium", "chromium-browser", "google-chrome", "google-chrome-stable")


@pytest.fixture(scope="session")
def browser():
    """Chromium: that of MM_HF_CHROMIUM, which has to be there, or one on the path."""
    pytest.importorskip("playwright", reason="playwright is not installed: pip install 'mm_hf[browser]'")
    from playwright.sync_api import sync_playwright

    file = os.environ.get("MM_HF_CHROMIUM") or next(filter(None, map(shutil.which, NAMES)), None)
    if file is None:
        pytest.skip(f"none of {', '.join(NAMES)} is on the path: apt-get install chromium, or set MM_HF_CHROMIUM")
    with sync_playwright() as playwright:
        started = playwright.chromium.launch(executable_path=file, args=["--no-sandbox"])
        yield started
        started.close()
