"""Numbers to colours to pictures that a page can hold."""

from __future__ import annotations

import base64
import io
from functools import lru_cache
from math import cos, radians, sin

import numpy as np
from PIL import Image

STEPS = 256
DARKEST, LIGHTEST = 0.26, 0.93  # OKLab lightness of 0 and of 1
FIRST_HUE, LAST_HUE = 288.0, 104.0  # degrees: from violet over blue and green to yellow
CHROMA = 0.13


def heat_image(values: np.ndarray, low: float, high: float) -> Image.Image:
    """Return a picture with one pixel for each value: [H, W] → W x H pixels. `low` is darkest, `high` is lightest."""
    span = high - low
    shares = np.clip((values - low) / span, 0, 1) if span > 0 else np.zeros_like(values)
    return Image.fromarray(_ramp()[np.round(shares * (STEPS - 1)).astype(int)])


def heat_colour(share: float) -> tuple[int, int, int]:
    """Return the sRGB colour of a share from 0 to 1: equal steps of the share are equal steps of lightness."""
    share = min(1.0, max(0.0, share))
    lightness = DARKEST + (LIGHTEST - DARKEST) * share
    hue = radians(FIRST_HUE + (LAST_HUE - FIRST_HUE) * share)
    chroma = CHROMA
    while True:  # as colourful as a screen can show at this lightness and hue
        colour = _from_oklab(lightness, chroma * cos(hue), chroma * sin(hue))
        if all(-1e-6 <= channel <= 1 + 1e-6 for channel in colour) or chroma < 0.001:
            return tuple(round(255 * _gamma(min(1.0, max(0.0, channel)))) for channel in colour)
        chroma -= 0.001


def data_uri(picture: Image.Image) -> str:
    """Return a picture as a PNG inside a URI."""
    buffer = io.BytesIO()
    picture.save(buffer, "PNG", optimize=True)
    return "data:image/png;base64," + base64.b64encode(buffer.getvalue()).decode("ascii")


@lru_cache(maxsize=1)
def _ramp() -> np.ndarray:
    return np.array([heat_colour(step / (STEPS - 1)) for step in range(STEPS)], dtype=np.uint8)


def _from_oklab(lightness: float, a: float, b: float) -> tuple[float, float, float]:
    """OKLab → linear sRGB (Björn Ottosson, 2020)."""
    long = (lightness + 0.3963377774 * a + 0.2158037573 * b) ** 3
    medium = (lightness - 0.1055613458 * a - 0.0638541728 * b) ** 3
    short = (lightness - 0.0894841775 * a - 1.2914855480 * b) ** 3
    return (
        4.0767416621 * long - 3.3077115913 * medium + 0.2309699292 * short,
        -1.2684380046 * long + 2.6097574011 * medium - 0.3413193965 * short,
        -0.0041960863 * long - 0.7034186147 * medium + 1.7076147010 * short,
    )


def _gamma(channel: float) -> float:
    return 12.92 * channel if channel <= 0.0031308 else 1.055 * channel ** (1 / 2.4) - 0.055
