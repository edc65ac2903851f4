"""A finished run of a packaged decoder, made small enough to be handed on: its difference from the decoder.

    python scripts/shrink_model.py runs/smollm2/final models/smollm2

`phantrol ask models/smollm2 IMAGE "QUESTION"` puts the whole together at its first call.
"""

import argparse
from pathlib import Path

from phantrol.models.difference import save_difference

if __name__ == "__main__":
    parser = argparse.ArgumentParser(description=__doc__.split("\n")[0])
    parser.add_argument("model", type=Path, help="a folder with weights in float32, such as RUN/final")
    parser.add_argument("out", type=Path, help="a folder that does not exist yet")
    options = parser.parse_args()
    out = save_difference(options.model, options.out)
    print(f"{out}: {sum(path.stat().st_size for path in out.iterdir()) / 1e6:.1f} MB")
