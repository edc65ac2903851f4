"""Pictures to tiles of normalised pixels, with Pillow and torch alone.

I tiles of a picture, S tile side in pixels.
"""

from __future__ import annotations

import io
import re
import warnings
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np
import torch
from PIL import ExifTags, Image, UnidentifiedImageError
from torch import Tensor
from transformers.image_processing_utils import BaseImageProcessor, BatchFeature
from transformers.models.auto.image_processing_auto import AutoImageProcessor

from phantrol.models.configuration import PhantrolConfig
from phantrol.ops.images import best_tile_grid, tile_slices

MAX_PIXELS = 64_000_000  # of one picture: 192 MB once decoded
# once for the process: several threads open pictures, and what `catch_warnings` puts back is not theirs alone
warnings.simplefilter("ignore", Image.DecompressionBombWarning)  # max_pixels decides
_TURNS = {
    2: Image.Transpose.FLIP_LEFT_RIGHT,
    3: Image.Transpose.ROTATE_180,
    4: Image.Transpose.FLIP_TOP_BOTTOM,
    5: Image.Transpose.TRANSPOSE,
    6: Image.Transpose.ROTATE_270,
    7: Image.Transpose.TRANSVERSE,
    8: Image.Transpose.ROTATE_90,
}  # by the orientation of EXIF


NAMED = 300  # characters of a name in an error: what was meant for one may be a whole picture in base64


def load_picture(source: str | Path | bytes | Image.Image, max_pixels: int = MAX_PIXELS) -> Image.Image:
    """Return a picture in RGB, on white where it is transparent, turned as its EXIF data says, and without that data.

    source  a file, the bytes of one, or a picture that Pillow has opened
    Raises ValueError, naming the file: missing, unreadable, empty, truncated, not a picture, or more than `max_pixels`
    pixels, which is checked before anything is decoded.
    """
    name = "the picture" if isinstance(source, bytes | Image.Image) else f"picture {str(source)[:NAMED]}"
    if isinstance(source, Image.Image):
        return _decode(source, name, max_pixels)
    if not isinstance(source, bytes):
        if not isinstance(source, str | Path):
            raise ValueError(
                f"a picture of type {type(source).__name__}: expected a file, the bytes of one, or a PIL.Image, as "
                "Image.fromarray makes one"
            )
        if isinstance(source, str) and re.match(r"\w{2,}:(//|.*;base64,)", source):
            raise ValueError(f"{name} is an address: expected a file on this machine; fetch it first")
        try:
            path = Path(source)
            if path.is_dir():
                raise ValueError(f"{name} is a folder: name a file in it")
            if not path.exists():
                raise ValueError(f"{name}: no such file")
            if not path.is_file():  # it can be read once at most, and may never end
                raise ValueError(f"{name} is a pipe or a device: expected a file; save the picture first")
            source = path.read_bytes()
        except OSError as error:  # no permission, a name that is too long
            raise ValueError(f"{name} cannot be read: {error.strerror or error}; choose another file") from None
    if not source:
        raise ValueError(f"{name} is empty: 0 bytes")
    try:
        picture = Image.open(io.BytesIO(source))
    except UnidentifiedImageError:
        raise ValueError(
            f"{name} is not a picture: expected PNG, JPEG, WebP or another format that Pillow reads"
        ) from None
    except Image.DecompressionBombError as error:
        raise ValueError(f"{name} is too large: {error}; at most {max_pixels:,} pixels are decoded") from None
    except MemoryError:
        raise
    except Exception as error:  # Pillow's readers raise whatever a broken file makes them
        raise ValueError(f"{name} is broken: {error}") from None
    return _decode(picture, name, max_pixels)


def _decode(picture: Image.Image, name: str, max_pixels: int) -> Image.Image:
    width, height = picture.size
    if width * height > max_pixels:
        raise ValueError(
            f"{name} is too large: {width} x {height} = {width * height:,} pixels, expected at most {max_pixels:,}; "
            "make it smaller"
        )
    if width * height == 0:
        raise ValueError(f"{name} has no pixels: {width} x {height}")
    try:
        picture.load()  # Pillow decodes here: truncated or corrupt data shows now
        rgb = _on_white(_eight_bits(_upright(picture), picture.format)).convert("RGB")
        rgb.info = {}  # the turn is done: whoever loads this picture again must not turn it once more
        return rgb
    except MemoryError:
        raise
    except Exception as error:  # Pillow's readers raise whatever a broken file makes them
        raise ValueError(f"{name} is broken: {error}") from None


def _eight_bits(picture: Image.Image, file_format: str | None) -> Image.Image:
    """Return 16 bits of grey as 8, where Pillow's own conversion makes white of all above 255.

    Raises ValueError for a file of 32 bits, whose white nothing names: Pillow would make it all black or all white.
    """
    if picture.mode.startswith("I;16") or (picture.mode == "I" and file_format == "PPM"):
        grey = np.asarray(picture)
        is_clear = grey == picture.info.get("transparency")  # a shade of 16 bits, or None
        return Image.fromarray(np.where(is_clear, 255, grey >> 8).astype(np.uint8))
    if file_format and (picture.mode == "F" or (picture.mode == "I" and file_format != "PNG")):
        white = f"pixels of 32 bits (mode {picture.mode}), and nothing says which value is white"
        raise ValueError(f"{white}: save it with 8 or 16 bits")
    return picture


def _on_white(picture: Image.Image) -> Image.Image:
    """Return a picture in RGB with white behind whatever is transparent, or as it is if nothing can be.

    Pillow's own conversion shows the colours that a transparent pixel hides: most often black, so that a black drawing
    is lost in it.
    """
    if not picture.has_transparency_data:
        return picture
    key = picture.info.get("transparency")
    if isinstance(key, tuple) and max(key) > 255:  # a colour of 16 bits, as its file had, though its pixels now have 8
        picture = picture.copy()  # another's info stays as it is
        picture.info["transparency"] = tuple(value >> 8 for value in key)
    if picture.mode == "La":  # which Pillow converts to nothing else
        picture = picture.convert("LA")
    rgba = picture.convert("RGBA")
    white = Image.new("RGB", rgba.size, "white")
    white.paste(rgba, mask=rgba)
    return white


def _upright(picture: Image.Image) -> Image.Image:
    """Return a decoded picture turned as its EXIF data says. Broken ones turn nothing, as in data.pictures."""
    try:  # not ImageOps.exif_transpose, which also writes the data anew and fails where another tag is broken
        turn = _TURNS.get(picture.getexif().get(ExifTags.Base.Orientation))
    except Exception:  # struct.error among others
        turn = None
    return picture if turn is None else picture.transpose(turn)


class PhantrolImageProcessor(BaseImageProcessor):
    """Cut each picture into tiles of the vision tower's size and normalise them.

    image_px    S, width and height of a tile
    max_tiles   1: the whole picture becomes one square tile; more: as many tiles as suit its aspect ratio
    thumbnail   one more tile that shows the whole picture, where there are several
    antialias   resize with Pillow's bicubic filter, which looks at all pixels; False: with torch's, which looks at 16
                of them, on bytes, as the models were taught that were released so (TroL-1.8B and 7B)
    image_mean, image_std  of each channel, red, green and blue, of pixels in [0, 1]
    max_pixels  a larger picture is refused before it is decoded
    Raises ValueError for settings that no picture could be read with.
    """

    model_input_names = ["pixel_values"]

    def __init__(
        self,
        image_px: int = 224,
        max_tiles: int = 1,
        thumbnail: bool = True,
        antialias: bool = True,
        image_mean: Sequence[float] = (0.5, 0.5, 0.5),
        image_std: Sequence[float] = (0.5, 0.5, 0.5),
        max_pixels: int = MAX_PIXELS,
        **kwargs: Any,
    ):
        super().__init__(**kwargs)
        for name, number in (("image_px", image_px), ("max_tiles", max_tiles)):
            if not isinstance(number, int) or number < 1:
                raise ValueError(f"{name}: got {number!r}, expected a whole number, 1 or more")
        self.image_mean, self.image_std = _of_channels("image_mean", image_mean), _of_channels("image_std", image_std)
        if min(self.image_std) <= 0:
            raise ValueError(f"image_std: got {self.image_std}, expected numbers above 0: pixels are divided by them")
        self.image_px, self.max_tiles, self.thumbnail, self.antialias = image_px, max_tiles, thumbnail, antialias
        self.max_pixels = max_pixels

    def __call__(self, images: Sequence[Any], **kwargs: Any) -> BatchFeature:
        """Return `pixel_values` [I of all pictures, 3, S, S] and `num_tiles`, one count a picture.

        images  pictures, files or bytes. Raises ValueError as `load_picture` does.
        """
        tiles = [self.tiles(load_picture(image, self.max_pixels)) for image in images]
        return BatchFeature({"pixel_values": torch.cat(tiles), "num_tiles": [len(group) for group in tiles]})

    def tiles(self, picture: Image.Image) -> Tensor:
        """Return the normalised tiles of one RGB picture: [I, 3, S, S]."""
        side = self.image_px
        columns, rows = best_tile_grid(*picture.size, side, self.max_tiles)
        resized = self._resize(picture, columns * side, rows * side)
        tiles = [resized[:, top:bottom, left:right] for left, top, right, bottom in tile_slices(columns, rows, side)]
        if self.thumbnail and len(tiles) > 1:
            tiles.append(self._resize(picture, side, side))
        pixels = torch.stack(tiles)
        mean, std = (torch.tensor(values).view(3, 1, 1) for values in (self.image_mean, self.image_std))
        return (pixels / 255 - mean) / std

    def _resize(self, picture: Image.Image, width: int, height: int) -> Tensor:
        """→ [3, height, width] bytes."""
        if self.antialias:
            return _bytes(picture.resize((width, height), Image.Resampling.BICUBIC))
        return torch.nn.functional.interpolate(_bytes(picture)[None], size=(height, width), mode="bicubic")[0]


def _of_channels(name: str, values: Sequence[float]) -> list[float]:
    try:
        numbers = [float(value) for value in values]
    except (TypeError, ValueError):
        numbers = []
    if len(numbers) != 3:
        raise ValueError(f"{name}: got {values!r}, expected 3 numbers, of red, green and blue")
    return numbers


def _bytes(picture: Image.Image) -> Tensor:
    return torch.from_numpy(np.array(picture)).permute(2, 0, 1)


AutoImageProcessor.register(PhantrolConfig, slow_image_processor_class=PhantrolImageProcessor, exist_ok=True)
