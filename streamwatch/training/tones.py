"""Changes of colour and texture. On the face alone they make a fake; on the whole picture they stay real."""

from __future__ import annotations

import cv2
import numpy as np

from streamwatch.domain import Floats, Image
from streamwatch.training.geometry import FaceGeometry


def shift_colours(image: Image, rng: np.random.Generator, strength: float = 1.0) -> Image:
    """Brightness, contrast, gamma, tint and saturation, a random few of them."""
    gain = np.ones(3, np.float32)
    offset = np.zeros(3, np.float32)
    if rng.random() < 0.6:
        offset += strength * rng.uniform(-14, 14, 3)
    if rng.random() < 0.5:
        gain *= 1.0 + strength * rng.uniform(-0.15, 0.15)
        offset += 128.0 * (1.0 - gain)
    if rng.random() < 0.5:
        offset += strength * rng.uniform(-18, 18)
    if rng.random() < 0.3:
        gain *= 1.0 + strength * rng.uniform(-0.08, 0.08, 3)
    gamma = float(np.exp(strength * rng.uniform(-0.25, 0.25))) if rng.random() < 0.3 else 1.0
    ramp = 255.0 * (np.arange(256, dtype=np.float32) / 255.0) ** gamma
    table = np.clip(ramp[:, None] * gain + offset, 0, 255).astype(np.uint8)
    toned = cv2.LUT(image, table.reshape(1, 256, 3))
    if rng.random() < 0.4:
        grey = cv2.cvtColor(toned, cv2.COLOR_RGB2GRAY)
        amount = 1.0 + strength * float(rng.uniform(-0.35, 0.35))
        toned = cv2.addWeighted(toned, amount, cv2.cvtColor(grey, cv2.COLOR_GRAY2RGB), 1.0 - amount, 0)
    return np.asarray(toned, np.uint8)


def change_sharpness(image: Image, geometry: FaceGeometry, rng: np.random.Generator, strength: float = 1.0) -> Image:
    """Sharpening, or scaling down and up again."""
    draw = rng.random()
    if draw < 0.35:
        sigma = float(rng.uniform(0.7, 2.0))
        return sharpen(image, sigma, strength * float(rng.uniform(0.3, 1.2)))
    if draw < 0.8:
        return rescale(image, float(rng.uniform(0.3, 0.75)), rng)
    return image


def sharpen(image: Image, sigma: float, amount: float) -> Image:
    """An unsharp mask: `amount` times the detail below `sigma` pixels is added."""
    blurred = cv2.GaussianBlur(image, (0, 0), sigma)
    return np.asarray(cv2.addWeighted(image, 1.0 + amount, blurred, -amount, 0), np.uint8)


def rescale(image: Image, factor: float, rng: np.random.Generator) -> Image:
    """Down by `factor` and back, with a random choice of kernels."""
    height, width = image.shape[:2]
    down = cv2.INTER_AREA if rng.random() < 0.6 else cv2.INTER_LINEAR
    up = (cv2.INTER_LINEAR, cv2.INTER_CUBIC, cv2.INTER_LANCZOS4)[int(rng.integers(3))]
    small = cv2.resize(image, (max(8, round(width * factor)), max(8, round(height * factor))), interpolation=down)
    return np.asarray(cv2.resize(small, (width, height), interpolation=up), np.uint8)


def generator_look(image: Image, geometry: FaceGeometry, rng: np.random.Generator, difficulty: float) -> Image:
    """A face generator's texture: low resolution brought up, smoothing that spares edges, a median, or an old JPEG.

    Sizes are relative to the face, so that a small face is altered as visibly as a large one.
    """
    face = max(16.0, float(np.ptp(geometry.outline[:, 1])))
    draw = rng.random()
    if draw < 0.5:
        pixels = rng.uniform(56, 160) + 24 * (difficulty - 1.0)
        looked = rescale(image, float(np.clip(pixels / face, 0.2, 0.9)), rng)
        if rng.random() < 0.3:
            looked = sharpen(looked, 0.012 * face, 0.7)
        return looked
    if draw < 0.7:
        return np.asarray(cv2.GaussianBlur(image, (0, 0), float(rng.uniform(0.003, 0.011)) * face), np.uint8)
    if draw < 0.85:
        return beauty_blur(image, rng)
    return jpeg(image, int(rng.integers(15, 60)))


def beauty_blur(image: Image, rng: np.random.Generator) -> Image:
    """Edge-preserving smoothing, computed at half size as phones do."""
    height, width = image.shape[:2]
    half = cv2.resize(image, (max(8, width // 2), max(8, height // 2)), interpolation=cv2.INTER_AREA)
    smooth = cv2.bilateralFilter(half, 5, float(rng.uniform(15, 45)), 3.0)
    detail = cv2.subtract(half, smooth, dtype=cv2.CV_16S)
    keep = cv2.resize(detail, (width, height), interpolation=cv2.INTER_LINEAR)
    amount = float(rng.uniform(0.5, 1.0))
    return np.asarray(np.clip(image - amount * keep, 0, 255), np.uint8)


def jpeg(image: Image, quality: int) -> Image:
    """The picture after JPEG compression."""
    done, data = cv2.imencode(".jpg", cv2.cvtColor(image, cv2.COLOR_RGB2BGR), [cv2.IMWRITE_JPEG_QUALITY, quality])
    if not done:
        raise ValueError(f"cannot encode a {image.shape} picture as JPEG")
    return np.asarray(cv2.cvtColor(cv2.imdecode(data, cv2.IMREAD_COLOR), cv2.COLOR_BGR2RGB), np.uint8)


def film_grain(image: Image, rng: np.random.Generator) -> Image:
    """Grain of 0.4 to 1.6 px, strongest in the mid-tones, mostly in the brightness, as a scanned negative shows."""
    height, width = image.shape[:2]
    colour = float(rng.uniform(0.0, 0.6))
    cv2.setRNGSeed(int(rng.integers(1 << 31)))
    shared, own = np.empty((height, width, 1), np.float32), np.empty((height, width, 3), np.float32)
    cv2.randn(shared, 0, 1.0)
    cv2.randn(own, 0, 1.0)
    grain = cv2.GaussianBlur((1.0 - colour) * shared + colour * own, (0, 0), float(rng.uniform(0.4, 1.6)))
    grain *= float(rng.uniform(2.5, 11.0)) / max(1e-3, float(grain.std()))
    tone = np.arange(256, dtype=np.float32) / 255.0
    strength = 0.3 + 0.7 * 4.0 * tone * (1.0 - tone)
    return np.asarray(np.clip(image + grain * strength[image] + 0.5, 0, 255), np.uint8)


def halftone(image: Image, rng: np.random.Generator) -> Image:
    """A scanned print: a dot screen for each ink (one for a grey print) at its own angle, softened by the scan."""
    height, width = image.shape[:2]
    grey = rng.random() < 0.5
    source = image
    if grey:
        source = np.asarray(cv2.cvtColor(cv2.cvtColor(image, cv2.COLOR_RGB2GRAY), cv2.COLOR_GRAY2RGB), np.uint8)
    period, turn = float(rng.uniform(1.8, 5.5)), float(rng.uniform(0, 90))
    angles = np.deg2rad(turn + np.array((0.0, 0.0, 0.0) if grey else (0.0, 30.0, 60.0), np.float32))
    y, x = np.mgrid[:height, :width].astype(np.float32)[..., None] * (2 * np.pi / period)
    phase = rng.uniform(0, 2 * np.pi, (2, 3)).astype(np.float32)
    if grey:
        phase[:] = phase[:, :1]
    across = np.cos(angles) * x + np.sin(angles) * y + phase[0]
    along = np.cos(angles) * y - np.sin(angles) * x + phase[1]
    screen = 0.5 + 0.25 * (np.cos(across) + np.cos(along))
    # Dots grow with the ink: where the tone passes the screen's height the paper shows. Ink spreads: the edge is soft.
    dots = 255.0 / (1.0 + np.exp(np.clip((screen - source / 255.0) * float(rng.uniform(4.0, 12.0)), -30, 30)))
    soft = cv2.GaussianBlur(dots.astype(np.float32), (0, 0), float(rng.uniform(0.5, 1.2)))
    amount = float(rng.uniform(0.1, 0.7))
    return np.asarray(np.clip((1.0 - amount) * source + amount * soft + 0.5, 0, 255), np.uint8)


def analogue(image: Image, rng: np.random.Generator) -> Image:
    """A photograph on film, a scanned print, or (one in eight) both."""
    draw = rng.random()
    if draw < 0.6:
        image = film_grain(image, rng)
    return halftone(image, rng) if draw > 0.475 else image


def transfer_colours(image: Image, reference: Image, geometry: FaceGeometry, amount: float) -> Image:
    """Reinhard's transfer: the Lab mean and deviation of the reference's face given to this picture's face."""
    inside = np.zeros(image.shape[:2], np.uint8)
    cv2.fillPoly(inside, [np.round(geometry.outline).astype(np.int32)], 255)
    lab = cv2.cvtColor(image, cv2.COLOR_RGB2LAB)
    mean, deviation = cv2.meanStdDev(lab, mask=inside)
    wanted_mean, wanted_deviation = cv2.meanStdDev(cv2.cvtColor(reference, cv2.COLOR_RGB2LAB), mask=inside)
    gain = 1.0 + amount * (np.clip(wanted_deviation / np.maximum(deviation, 1.0), 0.5, 2.0) - 1.0)
    goal = mean + amount * (wanted_mean - mean)
    ramp = np.arange(256, dtype=np.float32)[:, None]
    table: Floats = (ramp - mean.T) * gain.T + goal.T
    matched = cv2.LUT(lab, np.clip(table, 0, 255).astype(np.uint8).reshape(1, 256, 3))
    return np.asarray(cv2.cvtColor(matched, cv2.COLOR_LAB2RGB), np.uint8)


def draw_occluder(image: Image, geometry: FaceGeometry, rng: np.random.Generator) -> Image:
    """Glasses, a bar or a patch of one colour with a sharp edge: real things have sharp edges too."""
    canvas = image.copy()
    x0, y0, x1, y1 = geometry.box
    width, height = x1 - x0, y1 - y0
    colour = tuple(int(v) for v in rng.integers(0, 256, 3))
    if rng.random() < 0.5:
        thick = max(1, round(0.02 * width))
        y = round(float(y0 + 0.33 * height))
        for x in (x0 + 0.28 * width, x0 + 0.72 * width):
            axes = (round(0.17 * width), round(0.12 * height))
            cv2.ellipse(canvas, (round(x), y), axes, 0, 0, 360, colour, thick, cv2.LINE_AA)
        cv2.line(canvas, (round(x0 + 0.45 * width), y), (round(x0 + 0.55 * width), y), colour, thick, cv2.LINE_AA)
        return canvas
    cx, cy = x0 + rng.random() * width, y0 + rng.random() * height
    angle = float(rng.uniform(0, 180))
    size = (float(rng.uniform(0.08, 0.4) * width), float(rng.uniform(0.08, 0.6) * height))
    corners = cv2.boxPoints(((float(cx), float(cy)), size, angle))
    cv2.fillPoly(canvas, [np.round(corners).astype(np.int32)], colour, cv2.LINE_AA)
    return canvas
