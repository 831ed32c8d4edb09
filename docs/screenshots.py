"""Takes the pictures of the evidence page and of the demo page that README and docs show, from a run.

    .venv-demo/bin/python docs/screenshots.py runs/easy_vqa       # after `make quickstart`; writes docs/assets/*.png

It explains twenty test rows of the run and opens one; it starts the demo on a free port of this machine, gives it the
first example, asks, and stops it. Needs the environment of `make test-demo`, and Chromium (MM_HF_CHROMIUM: its path).
"""

import argparse
import io
import os
import subprocess
import sys
import tempfile
from pathlib import Path

from PIL import Image
from playwright.sync_api import Page, sync_playwright

from mm_hf.demo import build_demo


FOLDER = Path(__file__).resolve().parent / "assets"
WIDTH, COLORS = 1000, 128  # pixels of a page; colours that are kept, for a small file


def shoot(page: Page, name: str, height: int):
    """Writes the top of a page as a small PNG."""
    page.set_viewport_size({"width": WIDTH, "height": height})
    page.wait_for_timeout(700)  # until what moves has come to rest
    picture = Image.open(io.BytesIO(page.screenshot())).convert("RGB")
    picture.quantize(COLORS).save(FOLDER / f"{name}.png", optimize=True)
    print("written:", FOLDER / f"{name}.png")


def main():
    """Both pages, one after the other."""
    parser = argparse.ArgumentParser(description=__doc__.split("\n\n")[0])
    parser.add_argument("run", help="folder of a run on pictures and questions")
    parser.add_argument("--rows", type=int, default=20, help="test rows that are explained")
    arguments = parser.parse_args()
    FOLDER.mkdir(exist_ok=True)
    chromium = os.environ.get("MM_HF_CHROMIUM", "/usr/bin/chromium")
    with sync_playwright() as playwright, tempfile.TemporaryDirectory() as folder:
        browser = playwright.chromium.launch(executable_path=chromium, args=["--no-sandbox"])
        page = browser.new_page(viewport={"width": WIDTH, "height": 900})
        words = ["explain", arguments.run, "--rows", str(arguments.rows), "-o", folder]
        subprocess.run([sys.executable, "-m", "mm_hf", *words], check=True)
        page.set_default_timeout(0)  # a busy machine takes minutes
        page.goto(f"file://{folder}/index.html")
        shoot(page, "evidence-page", 800)
        page.locator(".card a").first.click()
        shoot(page, "evidence-row", 800)
        demo = build_demo(arguments.run)
        demo.launch(port=0, wait=False)
        page.goto(demo.url)
        page.locator("tbody tr").first.click()
        page.wait_for_timeout(3000)  # the example goes into the fields
        page.get_by_role("button", name="Answer").click()
        page.locator(".mm-answer").first.wait_for()
        shoot(page, "demo-page", 1000)
        demo.close()
        browser.close()


if __name__ == "__main__":
    main()
