"""Takes the pictures of the README: `scripts/screenshots [STUDY]`."""

from __future__ import annotations

import io
import sys
import tempfile
from pathlib import Path

from PIL import Image, ImageChops
from rich.console import Console
from selenium.webdriver import Chrome
from selenium.webdriver.support.ui import WebDriverWait

ROOT = Path(__file__).parent.parent
sys.path[:0] = [str(ROOT), str(ROOT / "tests")]  # in this order: tests/ has rooms of equal names

from chromium import chromium  # noqa: E402

from paretune.tables import counts_text, front_table  # noqa: E402
from search.front.front import read_front  # noqa: E402
from search.report.writer import write_report  # noqa: E402
from search.study.study import Study  # noqa: E402

IMAGES = ROOT / "docs" / "images"


def report_pictures(page: Path) -> None:
    """Take the report as it opens, a selected model in the dark, and a phone."""
    with browser(1200, 1000) as driver:
        opened(driver, page)
        shot(driver, "report", (0, 0, 1200, 835))
    with browser(1200, 1000, dark=True) as driver:
        opened(driver, page)
        driver.execute_script("document.querySelector('.pick button').click()")
        driver.execute_script("document.querySelector('#models').scrollIntoView()")
        WebDriverWait(driver, 20).until(
            lambda d: d.execute_script("return document.querySelector('#lines text') !== null")
        )
        driver.execute_async_script("setTimeout(arguments[0], 1500)")  # smooth scrolling ends
        driver.execute_script("document.querySelector('#models').scrollIntoView()")
        shot(driver, "report-models", (0, 0, 1200, 1000))


def terminal_picture(study: str) -> None:
    """Take what `paretune front` prints."""
    front = read_front(study)
    console = Console(
        record=True, width=156, file=io.StringIO(), force_terminal=True, highlight=False
    )
    console.print(front_table(front))
    console.print(counts_text(front))
    page = IMAGES / "terminal.svg"
    # The page that rich makes asks a server for its font, in vain: this machine's is as good.
    page.write_text(console.export_svg(title="paretune front studies/quickstart"))
    with browser(1200, 900) as driver:
        driver.get(page.as_uri())
        shot(driver, "terminal", (0, 0, 1200, 900))
    page.unlink()


def browser(width: int, height: int, *, dark: bool = False):  # type: ignore[no-untyped-def]
    """Open a browser of a size."""
    folder = tempfile.mkdtemp(prefix="paretune-")
    return chromium(Path(folder), width=width, height=height + 140, dark=dark)


def opened(driver: Chrome, page: Path) -> None:
    """Open the report and wait until its first figures stand."""
    driver.get(page.as_uri())
    ready = "return document.querySelectorAll('#projections .main-svg').length > 3"
    WebDriverWait(driver, 60).until(lambda d: d.execute_script(ready))


def shot(driver: Chrome, name: str, box: tuple[int, int, int, int]) -> None:
    """Save what is seen inside a box, without an empty border."""
    picture = Image.open(io.BytesIO(driver.get_screenshot_as_png())).convert("RGB")
    path = IMAGES / f"{name}.png"
    right, below = min(box[2], picture.width), min(box[3], picture.height)
    picture = picture.crop((box[0], box[1], right, below))
    blank = Image.new("RGB", picture.size, picture.getpixel((0, 0)))
    picture = picture.crop(ImageChops.difference(picture, blank).getbbox())
    picture.save(path, optimize=True)
    print(path, path.stat().st_size)


if __name__ == "__main__":
    location = sys.argv[1] if len(sys.argv) > 1 else "studies/quickstart"
    IMAGES.mkdir(parents=True, exist_ok=True)
    with tempfile.TemporaryDirectory() as folder:
        written = write_report(Study.open(location), to=f"{folder}/report.html")
        report_pictures(Path(written))
    terminal_picture(location)
