"""Cut the fonts that Primer ships down to the characters it draws.

Run once, by hand; the package reads the results with Pillow alone.

    pip install fonttools                  # a build-time tool only
    apt-get download fonts-croscore        # Cousine and Tinos, under the SIL Open Font License without reserved names
    dpkg-deb -x fonts-croscore_*.deb croscore
    python scripts/build_fonts.py croscore/usr/share/fonts/truetype/croscore
"""

from __future__ import annotations

import argparse
import os
from pathlib import Path

from fontTools import subset

from phantrol.data.primer.fonts import BUNDLED, CHARACTERS, font_path


def cut(source: Path, target: Path) -> None:
    """Write the font with `CHARACTERS` alone, without hints and ligatures; its copyright and licence stay in it."""
    options = subset.Options(hinting=False, layout_features=[], name_IDs=[0, 1, 2, 4, 5, 6, 7, 13, 14])
    options.drop_tables += ["GSUB", "GPOS", "GDEF", "DSIG"]
    font = subset.load_font(str(source), options)
    subsetter = subset.Subsetter(options)
    subsetter.populate(text=CHARACTERS)
    subsetter.subset(font)
    beside = target.with_suffix(".part")
    font.save(beside)
    os.replace(beside, target)
    print(f"{target.name}: {target.stat().st_size:,} bytes")


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("folder", type=Path, help="with Cousine-Regular.ttf and Tinos-Regular.ttf")
    args = parser.parse_args()
    for name in BUNDLED:
        cut(args.folder / f"{name.capitalize()}-Regular.ttf", Path(str(font_path(name))))


if __name__ == "__main__":
    main()
