"""Photograph a report for docs/images: on a desktop, its answers, on a phone, dark, and printed.

    python benchmarks/screenshots.py [results/report.html] [--output docs/images]

Needs Chromium and Playwright, and for the printed pages pypdfium2, without which that picture is left out
(`pip install pypdfium2`; it is no dependency of the project). Pictures are below 200 kB.
"""

import argparse
import io
import shutil
from pathlib import Path

from PIL import Image
from playwright.sync_api import Page, sync_playwright

DESKTOP, PHONE = {"width": 1180, "height": 1120}, {"width": 390, "height": 844}
COLORS = 256


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawTextHelpFormatter)
    parser.add_argument("report", type=Path, nargs="?", default=Path("results/report.html"))
    parser.add_argument("--output", type=Path, default=Path(__file__).parents[1] / "docs" / "images")
    options = parser.parse_args()
    chromium = shutil.which("chromium") or shutil.which("google-chrome")
    with sync_playwright() as playwright:
        browser = playwright.chromium.launch(executable_path=chromium, args=["--no-sandbox"])
        page = browser.new_page(viewport=DESKTOP)
        page.goto(options.report.resolve().as_uri())
        for name, picture in pictures(page).items():
            path = options.output / f"{name}.png"
            picture.convert("RGB").quantize(COLORS, dither=Image.Dither.NONE).save(path, optimize=True)
            print(f"{path}: {picture.width} x {picture.height}, {path.stat().st_size // 1000} kB")
        browser.close()


def pictures(page: Page) -> dict[str, Image.Image]:
    """Return the pictures by name; the page ends on a phone."""
    scroll(page)
    found = {"report": opened(page.screenshot())}
    if page.locator(".answers").count():
        found["report-answers"] = opened(page.locator(".answers").first.screenshot())
    found["report-curves"] = opened(page.locator("figure:has(#curves)").screenshot())
    page.emulate_media(color_scheme="dark")
    page.evaluate("scrollTo(0, 0)")
    found["report-dark"] = opened(page.screenshot())
    page.emulate_media(color_scheme="light")
    printed = pages_of(page.pdf(prefer_css_page_size=True), 2)
    if printed is not None:
        found["report-print"] = printed
    page.set_viewport_size(PHONE)
    scroll(page)
    found["report-phone"] = opened(
        page.screenshot(clip={"x": 0, "y": 0, "width": 390, "height": 1400}, full_page=True)
    )
    return found


def scroll(page: Page) -> None:
    """Go through the page, so that all of it is drawn, and back to its top."""
    height = page.evaluate("document.documentElement.scrollHeight")
    for top in range(0, height, 500):
        page.evaluate(f"scrollTo(0, {top})")
        page.wait_for_timeout(60)
    page.evaluate("scrollTo(0, 0)")
    page.wait_for_timeout(300)


def opened(png: bytes) -> Image.Image:
    return Image.open(io.BytesIO(png))


def pages_of(pdf: bytes, number: int) -> Image.Image | None:
    """Return the first pages of a PDF beside each other; None without pypdfium2."""
    try:
        import pypdfium2
    except ImportError:
        print("printed pages are left out, as pypdfium2 is not installed")
        return None
    pages = [page.render(scale=1).to_pil() for page in list(pypdfium2.PdfDocument(pdf))[:number]]
    sheet = Image.new(
        "RGB", (sum(one.width for one in pages) + 8 * (len(pages) - 1), pages[0].height), "#888"
    )
    left = 0
    for one in pages:
        sheet.paste(one, (left, 0))
        left += one.width + 8
    return sheet


if __name__ == "__main__":
    main()
