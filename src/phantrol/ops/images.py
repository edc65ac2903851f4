"""From pictures to the tokens of a decoder: tile grids, pixel unshuffle, scatter of image features.

I tiles, P patches of a tile on a square grid, s unshuffle factor, L = P / s² tokens of a tile, B rows of N tokens.
"""

from __future__ import annotations

from torch import Tensor


def best_tile_grid(width_px: int, height_px: int, tile_px: int, max_tiles: int) -> tuple[int, int]:
    """Return (columns, rows) of tiles, at most `max_tiles`, whose aspect ratio is nearest to the picture's.

    Of equally near grids the larger wins if the picture has more than half as many pixels as it.
    """
    grids = [(c, r) for c in range(1, max_tiles + 1) for r in range(1, max_tiles + 1) if c * r <= max_tiles]
    best, nearest = (1, 1), float("inf")
    for columns, rows in sorted(grids, key=lambda grid: grid[0] * grid[1]):
        distance = abs(width_px / height_px - columns / rows)
        if distance < nearest:
            best, nearest = (columns, rows), distance
        elif distance == nearest and width_px * height_px > 0.5 * tile_px**2 * columns * rows:
            best = (columns, rows)
    return best


def pixel_unshuffle(features: Tensor, factor: int) -> Tensor:
    """Fold s x s neighbouring patches into one token: [I, P, D] → [I, P / s², s²·D].

    Raises ValueError if the patches form no square grid that s divides.
    """
    if factor == 1:
        return features
    tiles, patches, size = features.shape
    side = round(patches**0.5)
    if side * side != patches or side % factor:
        raise ValueError(f"{patches} patches a tile: expected a square grid whose side is a multiple of {factor}")
    grid = features.view(tiles, side // factor, factor, side // factor, factor, size)
    return grid.permute(0, 1, 3, 2, 4, 5).reshape(tiles, patches // factor**2, factor**2 * size)


def scatter_features(embeddings: Tensor, is_image: Tensor, features: Tensor) -> Tensor:
    """Put image features, in order, at the image tokens of each row.

    embeddings [B, N, D]   is_image [B, N] True on image tokens   features [I, L, D]   → [B, N, D]
    Raises ValueError if there are more or fewer image tokens than features.
    """
    expected, got = features.shape[0] * features.shape[1], int(is_image.sum())
    if got != expected:
        raise ValueError(
            f"{got} image tokens in the text, but the pictures give {features.shape[0]} tiles x {features.shape[1]} "
            f"= {expected} features: prepare text and pictures with one call of the processor"
        )
    where = is_image[..., None].to(embeddings.device)  # of several, where a device map has spread the model
    return embeddings.masked_scatter(where, features.to(embeddings.device, embeddings.dtype))


def join_patches(last_hidden_state: Tensor, num_patches: int) -> Tensor:
    """Return the patches of a vision tower's output in reading order, without class and register tokens.

    last_hidden_state  [I, prefix + P, D] of a transformer, or [I, D, h, w] of a convolutional network;  → [I, P, D]
    Raises ValueError if there are fewer than P of them.
    """
    if last_hidden_state.ndim == 4:
        last_hidden_state = last_hidden_state.flatten(2).transpose(1, 2)
    if last_hidden_state.shape[1] < num_patches:
        raise ValueError(f"the vision tower gives {last_hidden_state.shape[1]} tokens a tile, expected {num_patches}")
    return last_hidden_state[:, last_hidden_state.shape[1] - num_patches :]


def tile_slices(columns: int, rows: int, tile_px: int) -> list[tuple[int, int, int, int]]:
    """Return the boxes (left, top, right, bottom) in pixels of a grid of tiles, row by row."""
    return [
        (column * tile_px, row * tile_px, (column + 1) * tile_px, (row + 1) * tile_px)
        for row in range(rows)
        for column in range(columns)
    ]
