"""Still pictures as the detector wants them."""

from __future__ import annotations

import warnings
from pathlib import Path

import numpy as np
from PIL import Image as Pillow
from PIL import ImageOps, UnidentifiedImageError

from streamwatch.domain import Image
from streamwatch.errors import MediaError


def read_image(path: Path) -> Image:
    """uint8 RGB (H, W, 3), upright by its EXIF orientation; transparency on white, grey and palettes as RGB, the first
    picture of an animation. Raises MediaError."""
    if path.is_file() and path.stat().st_size == 0:
        raise MediaError(f"{path}: is empty")
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")  # Pillow's notes on odd EXIF and large pictures; the hard limit stays
            with Pillow.open(path) as opened:
                return _as_rgb(ImageOps.exif_transpose(opened))
    except UnidentifiedImageError as error:
        raise MediaError(f"{path}: is not a picture, or not one that can be read") from error
    except Pillow.DecompressionBombError as error:
        raise MediaError(f"{path}: is too large: {error}") from error
    except (OSError, ValueError, SyntaxError) as error:
        raise MediaError(f"{path}: cannot be read: {error}") from error


def _as_rgb(picture: Pillow.Image) -> Image:
    if picture.mode.startswith(("I", "F")):  # 16 or 32 bits a pixel: scale, where Pillow would cut off
        values = np.asarray(picture, np.float32)
        top = 65535.0 if values.max() > 255 else 255.0
        grey = np.clip(values * (255.0 / top), 0, 255).astype(np.uint8)
        return np.repeat(grey[..., None], 3, axis=2)
    if picture.mode in ("RGBA", "LA", "PA") or "transparency" in picture.info:
        layered = picture.convert("RGBA")
        ground = Pillow.new("RGBA", layered.size, (255, 255, 255, 255))
        picture = Pillow.alpha_composite(ground, layered)
    return np.asarray(picture.convert("RGB"), np.uint8)
