"""Makes the pictures of the operator's screen in `docs/pictures/` from the recording that the tests use.

    python docs/make_pictures.py [-- SCREEN ...]

Needs cairosvg and a monospaced font with block characters (Debian: fonts-firacode); without it columns do not align.
"""

from __future__ import annotations

import asyncio
import io
import re
import sys
from pathlib import Path

import cairosvg
from PIL import Image

from admin_tui.app import HeadraceTop
from admin_tui.recording import read
from admin_tui.replay import ReplayFeed

ROOT = Path(__file__).resolve().parent.parent
RECORDING = ROOT / "tests" / "admin_tui" / "data" / "demo.ndjson"
OUT = ROOT / "docs" / "pictures"
SIZE = (120, 34)
WIDTH_PX = 1240
LARGER = 3
SCREENS = {
    "pulse": (),
    "fleet": ("2", *("down",) * 8),
    "host": ("3",),
    "requests": ("4", *("down",) * 12, "enter"),
    "scheduler": ("5",),
    "kv": ("6",),
    "models": ("7",),
    "bus": ("8", *("down",) * 11),
}


async def picture(name: str, keys: tuple[str, ...]) -> str:
    """The SVG of a screen after these keys."""
    app = HeadraceTop(lambda: ReplayFeed(list(read(RECORDING))), wall_clock=lambda: "12:00:00", host="gpu-07")
    async with app.run_test(size=SIZE) as pilot:
        await pilot.pause()
        for key in keys:
            await pilot.press(key)
            await pilot.pause()
        await pilot.pause(0.6)
        return app.export_screenshot(title=f"headrace top: {name}")


def to_png(svg: str, path: Path) -> None:
    """Draw with the installed Fira Code: the web font that the SVG names is not fetched."""
    local = re.sub(r"@font-face\s*{[^}]*}", "", svg)
    # Drawn larger and made smaller: cairo rounds the width of small letters to whole pixels, and blanks get lost.
    drawn = Image.open(io.BytesIO(cairosvg.svg2png(bytestring=local.encode(), output_width=LARGER * WIDTH_PX)))
    image = drawn.convert("RGB").resize((WIDTH_PX, drawn.height // LARGER), Image.Resampling.LANCZOS)
    # A screen has few colours: a palette makes the file a third as large, and nobody sees it.
    image.quantize(240, method=Image.Quantize.MAXCOVERAGE, dither=Image.Dither.NONE).save(path, optimize=True)


def main() -> None:
    """Make them all, or those that are named."""
    OUT.mkdir(parents=True, exist_ok=True)
    for name in sys.argv[1:] or SCREENS:
        path = OUT / f"{name}.png"
        to_png(asyncio.run(picture(name, SCREENS[name])), path)
        print(f"{path.relative_to(ROOT)}: {path.stat().st_size / 1024:.0f} KiB")


if __name__ == "__main__":
    main()
