"""Draw Primer's two sprite sheets from a colour emoji font and a folder of SVG files.

Run once, by hand; the package reads the sheets with Pillow alone.

    pip install resvg-py                                     # a build-time tool only
    apt-get download fonts-noto-color-emoji                  # NotoColorEmoji.ttf, bitmaps of 136 x 128
    npm pack @twemoji/svg                                    # one SVG a code point
    python scripts/build_sprites.py NotoColorEmoji.ttf package/
"""

from __future__ import annotations

import argparse
import io
import os
from collections.abc import Callable
from pathlib import Path

from PIL import Image, ImageDraw, ImageFont

from phantrol.data.primer.sprites import CELL_PX, COLUMNS, SHEETS, sheet_path
from phantrol.data.primer.vocabulary import SPRITES_BY_KIND

FONT_PX = 109  # the one size of the font's bitmaps
BYTES_ALLOWED = 400_000


def draw_noto(font_file: Path) -> Callable[[int], Image.Image]:
    font = ImageFont.truetype(str(font_file), FONT_PX, layout_engine=ImageFont.Layout.BASIC)

    def draw(code_point: int) -> Image.Image:
        canvas = Image.new("RGBA", (2 * FONT_PX, 2 * FONT_PX))
        ImageDraw.Draw(canvas).text((20, 20), chr(code_point), font=font, embedded_color=True)
        return canvas

    return draw


def draw_twemoji(folder: Path) -> Callable[[int], Image.Image]:
    import resvg_py

    def draw(code_point: int) -> Image.Image:
        svg = (folder / f"{code_point:x}.svg").read_text()
        png = resvg_py.svg_to_bytes(svg_string=svg, width=2 * CELL_PX, height=2 * CELL_PX)
        return Image.open(io.BytesIO(bytes(png))).convert("RGBA")

    return draw


def fit(drawing: Image.Image) -> Image.Image:
    """Return the drawing without its empty margins, centred in a cell."""
    box = drawing.getbbox()
    if box is None:
        raise ValueError("an empty drawing: the font or the folder lacks a code point")
    drawing = drawing.crop(box)
    scale = CELL_PX / max(drawing.size)
    drawing = drawing.resize([max(1, round(side * scale)) for side in drawing.size], Image.Resampling.LANCZOS)
    cell = Image.new("RGBA", (CELL_PX, CELL_PX))
    cell.paste(drawing, ((CELL_PX - drawing.width) // 2, (CELL_PX - drawing.height) // 2))
    return cell


def build_sheet(draw: Callable[[int], Image.Image]) -> Image.Image:
    code_points = [code_point for names in SPRITES_BY_KIND.values() for code_point in names.values()]
    rows = -(-len(code_points) // COLUMNS)
    sheet = Image.new("RGBA", (COLUMNS * CELL_PX, rows * CELL_PX))
    for i, code_point in enumerate(code_points):
        sheet.paste(fit(draw(code_point)), (i % COLUMNS * CELL_PX, i // COLUMNS * CELL_PX))
    return sheet


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("font", type=Path, help="NotoColorEmoji.ttf")
    parser.add_argument("twemoji", type=Path, help="the unpacked folder of @twemoji/svg")
    args = parser.parse_args()
    drawings = dict(zip(SHEETS, (draw_noto(args.font), draw_twemoji(args.twemoji)), strict=True))
    total = 0
    for style, draw in drawings.items():
        target = Path(str(sheet_path(style)))
        beside = target.with_suffix(".part")
        build_sheet(draw).save(beside, "WEBP", quality=80, alpha_quality=80, method=6)
        os.replace(beside, target)
        total += target.stat().st_size
        print(f"{target.name}: {target.stat().st_size:,} bytes")
    if total > BYTES_ALLOWED:
        raise SystemExit(
            f"the sheets take {total:,} bytes, allowed are {BYTES_ALLOWED:,}: lower CELL_PX or the quality"
        )


if __name__ == "__main__":
    main()
