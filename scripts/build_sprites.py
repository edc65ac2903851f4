"""Draw Primer's two sprite sheets from a colour emoji font and a folder of SVG files.

Run once, by hand; the package reads the sheets with Pillow alone.

    pip install resvg-py                                     # a build-time tool only
    apt-get download fonts-noto-color-emoji                  # NotoColorEmoji.ttf, bitmaps of 136 x 128
    npm pack @twemoji/svg                                    # one SVG a code point
    python scripts/build_sprites.py NotoColorEmoji.ttf package/
    python scripts/build_sprites.py NotoColorEmoji.ttf package/ --look sheet.png   # names beside drawings, to choose by
"""

from __future__ import annotations

import argparse
import io
import os
from collections.abc import Callable
from pathlib import Path

from PIL import Image, ImageDraw, ImageFont

from phantrol.data.primer.fonts import load_font
from phantrol.data.primer.sprite_names import CODE_POINT, SPRITES
from phantrol.data.primer.sprites import CELL_PX, COLUMNS, SHEETS, sheet_path
from phantrol.data.primer.stamps import fit

FONT_PX = 109  # the one size of the font's bitmaps
QUALITY = {"noto": 80, "twemoji": 80}
BYTES_ALLOWED = 1_600_000

Draw = Callable[[int], Image.Image]


def draw_noto(font_file: Path) -> Draw:
    font = ImageFont.truetype(str(font_file), FONT_PX, layout_engine=ImageFont.Layout.BASIC)

    def draw(code_point: int) -> Image.Image:
        canvas = Image.new("RGBA", (2 * FONT_PX, 2 * FONT_PX))
        ImageDraw.Draw(canvas).text((20, 20), chr(code_point), font=font, embedded_color=True)
        return canvas

    return draw


def draw_twemoji(folder: Path) -> Draw:
    import resvg_py

    def draw(code_point: int) -> Image.Image:
        svg = (folder / f"{code_point:x}.svg").read_text()
        png = resvg_py.svg_to_bytes(svg_string=svg, width=2 * CELL_PX, height=2 * CELL_PX)
        return Image.open(io.BytesIO(bytes(png))).convert("RGBA")

    return draw


def build_sheet(draw: Draw) -> Image.Image:
    rows = -(-len(SPRITES) // COLUMNS)
    sheet = Image.new("RGBA", (COLUMNS * CELL_PX, rows * CELL_PX))
    for i, name in enumerate(SPRITES):
        sheet.paste(fit(draw(CODE_POINT[name]), CELL_PX), (i % COLUMNS * CELL_PX, i // COLUMNS * CELL_PX))
    return sheet


def write(sheet: Image.Image, target: Path, quality: int) -> None:
    beside = target.with_suffix(".part")
    sheet.save(beside, "WEBP", quality=quality, alpha_quality=80, method=6)
    os.replace(beside, target)


def look(drawings: dict[str, Draw], target: Path, columns: int = 8) -> None:
    """Write a picture of all names with their drawings side by side."""
    wide, high = 2 * CELL_PX + 20, CELL_PX + 24
    rows = -(-len(SPRITES) // columns)
    page = Image.new("RGB", (columns * wide, rows * high), "white")
    pen = ImageDraw.Draw(page)
    for i, name in enumerate(SPRITES):
        x, y = i % columns * wide, i // columns * high
        for j, draw in enumerate(drawings.values()):
            drawing = fit(draw(CODE_POINT[name]), CELL_PX)
            page.paste(drawing, (x + j * (CELL_PX + 4), y), drawing)
        pen.text((x, y + CELL_PX + 2), name, "black", load_font("aileron", 16))
    page.save(target)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("font", type=Path, help="NotoColorEmoji.ttf")
    parser.add_argument("twemoji", type=Path, help="the unpacked folder of @twemoji/svg")
    parser.add_argument("--look", type=Path, help="write this contact sheet and nothing else")
    args = parser.parse_args()
    drawings = dict(zip(SHEETS, (draw_noto(args.font), draw_twemoji(args.twemoji)), strict=True))
    if args.look:
        look(drawings, args.look)
        return
    total = 0
    for style, draw in drawings.items():
        target = Path(str(sheet_path(style)))
        write(build_sheet(draw), target, QUALITY[style])
        total += target.stat().st_size
        print(f"{target.name}: {target.stat().st_size:,} bytes")
    if total > BYTES_ALLOWED:
        raise SystemExit(
            f"the sheets take {total:,} bytes, allowed are {BYTES_ALLOWED:,}: lower CELL_PX or the quality"
        )


if __name__ == "__main__":
    main()
