"""Picture operations on whole batches, on whatever device they lie. Pictures are float32 (N, 3, H, W) in 0..1."""

from __future__ import annotations

import math

import torch
from torch import Tensor
from torch.nn import functional as F

XYZ_OF_RGB = ((0.412453, 0.357580, 0.180423), (0.212671, 0.715160, 0.072169), (0.019334, 0.119193, 0.950227))
WHITE = (0.950456, 1.0, 1.088754)
CBCR_OF_RGB = ((-0.168736, -0.331264, 0.5), (0.5, -0.418688, -0.081312))
LUMA = (0.299, 0.587, 0.114)
LUMA_TABLE = (
    (16, 11, 10, 16, 24, 40, 51, 61),
    (12, 12, 14, 19, 26, 58, 60, 55),
    (14, 13, 16, 24, 40, 57, 69, 56),
    (14, 17, 22, 29, 51, 87, 80, 62),
    (18, 22, 37, 56, 68, 109, 103, 77),
    (24, 35, 55, 64, 81, 104, 113, 92),
    (49, 64, 78, 87, 103, 121, 120, 101),
    (72, 92, 95, 98, 112, 100, 103, 99),
)
CHROMA_TABLE = (
    (17, 18, 24, 47, 99, 99, 99, 99),
    (18, 21, 26, 66, 99, 99, 99, 99),
    (24, 26, 56, 99, 99, 99, 99, 99),
    (47, 66, 99, 99, 99, 99, 99, 99),
    *((99,) * 8,) * 4,
)
"""The tables of ITU-T T.81, annex K, which encoders scale by their quality."""
BLOCK = 8


def column(values: Tensor) -> Tensor:
    """One number a picture (N,), or one a channel (N, 3), to be broadcast over pictures."""
    return values.reshape(len(values), -1, 1, 1)


def blur(pictures: Tensor, sigma: Tensor) -> Tensor:
    """Gaussian blur, each picture by its own `sigma` (N,) in pixels; edges are repeated."""
    radius = max(1, math.ceil(2.5 * float(sigma.max())))
    offsets = torch.arange(-radius, radius + 1, dtype=pictures.dtype, device=pictures.device)
    kernel = torch.exp(-0.5 * (offsets / sigma.clamp_min(1e-3)[:, None]) ** 2)
    kernel = (kernel / kernel.sum(1, keepdim=True)).repeat_interleave(3, 0)
    count, height, width = len(pictures), pictures.shape[2], pictures.shape[3]
    planes = F.pad(pictures, (radius,) * 4, mode="replicate").reshape(1, 3 * count, height + 2 * radius, -1)
    rows = F.conv2d(planes, kernel[:, None, None, :], groups=3 * count)
    return F.conv2d(rows, kernel[:, None, :, None], groups=3 * count).reshape(count, 3, height, width)


def resized(pictures: Tensor, height: int, width: int) -> Tensor:
    """Area-like reduction, bilinear enlargement."""
    return F.interpolate(pictures, (height, width), mode="bilinear", antialias=True, align_corners=False)


def rescaled(pictures: Tensor, factors: Tensor) -> Tensor:
    """Each picture down by its factor (N,), and back bilinearly or bicubically in turn."""
    height, width = pictures.shape[2:]
    done = []
    for index, factor in enumerate(factors.tolist()):
        small = resized(pictures[index : index + 1], max(8, round(height * factor)), max(8, round(width * factor)))
        mode = ("bilinear", "bicubic")[index % 2]
        done.append(F.interpolate(small, (height, width), mode=mode, align_corners=False))
    return torch.cat(done).clamp(0, 1)


def toned(pictures: Tensor, gain: Tensor, offset: Tensor, gamma: Tensor, saturation: Tensor) -> Tensor:
    """`gain` and `offset` by channel (N, 3), `gamma` and `saturation` by picture (N,)."""
    x = pictures.clamp(1e-4, 1) ** column(gamma) * column(gain) + column(offset)
    grey = luma(x)
    return (grey + column(saturation) * (x - grey)).clamp(0, 1)


def luma(pictures: Tensor) -> Tensor:
    return (pictures * pictures.new_tensor(LUMA).view(1, 3, 1, 1)).sum(1, keepdim=True)


def to_lab(pictures: Tensor) -> Tensor:
    """sRGB to CIE L*a*b* (D65), each channel by 100."""
    linear = torch.where(pictures > 0.04045, ((pictures.clamp_min(0) + 0.055) / 1.055) ** 2.4, pictures / 12.92)
    xyz = _mixed(linear, pictures.new_tensor(XYZ_OF_RGB)) / column(pictures.new_tensor([WHITE]))
    root = torch.where(xyz > 0.008856, xyz.clamp_min(1e-6) ** (1 / 3), 7.787 * xyz + 16 / 116)
    x, y, z = root.unbind(1)
    return torch.stack((1.16 * y - 0.16, 5.0 * (x - y), 2.0 * (y - z)), 1)


def from_lab(lab: Tensor) -> Tensor:
    """The inverse of `to_lab`, clipped to 0..1."""
    y = (lab[:, 0] + 0.16) / 1.16
    root = torch.stack((y + lab[:, 1] / 5.0, y, y - lab[:, 2] / 2.0), 1)
    xyz = torch.where(root > 0.206893, root**3, (root - 16 / 116) / 7.787) * column(lab.new_tensor([WHITE]))
    linear = _mixed(xyz, torch.linalg.inv(lab.new_tensor(XYZ_OF_RGB))).clamp(0, 1)
    return torch.where(linear > 0.0031308, 1.055 * linear.clamp_min(1e-6) ** (1 / 2.4) - 0.055, 12.92 * linear)


def transferred(pictures: Tensor, reference: Tensor, inside: Tensor, amount: Tensor) -> Tensor:
    """Reinhard's transfer: the Lab mean and deviation of the reference's face given to the picture's. `inside`

    (N, 1, H, W) is the face; `amount` (N,) 0 leaves the picture as it is."""
    lab, wanted = to_lab(pictures), to_lab(reference)
    (mean, deviation), (goal, spread) = _moments(lab, inside), _moments(wanted, inside)
    share = column(amount)
    gain = 1 + share * ((spread / deviation.clamp_min(0.004)).clamp(0.5, 2.0) - 1)
    return from_lab((lab - mean) * gain + mean + share * (goal - mean))


def jpeg(pictures: Tensor, quality: Tensor) -> Tensor:
    """What baseline JPEG with halved chroma (4:2:0) leaves of each picture at its `quality` (N,), 1 to 100.

    Only the lossy steps: DCT, quantisation, and back (ITU-T T.81), so that no byte is ever written.
    """
    height, width = pictures.shape[2:]
    even = F.pad(pictures, (0, -width % (2 * BLOCK), 0, -height % (2 * BLOCK)), mode="replicate")
    y = luma(even) - 0.5
    chroma = F.avg_pool2d(_mixed(even, pictures.new_tensor(CBCR_OF_RGB)), 2)
    scale = torch.where(quality < 50, 50.0 / quality.clamp_min(1), 2.0 - quality / 50.0)
    y = _quantised(y, pictures.new_tensor(LUMA_TABLE), scale) + 0.5
    chroma = _quantised(chroma, pictures.new_tensor(CHROMA_TABLE), scale)
    cb, cr = F.interpolate(chroma, scale_factor=2.0, mode="bilinear", align_corners=False).chunk(2, 1)
    rgb = torch.cat((y + 1.402 * cr, y - 0.344136 * cb - 0.714136 * cr, y + 1.772 * cb), 1)
    return rgb[:, :, :height, :width].clamp(0, 1)


def grained(pictures: Tensor, noise: Tensor, sigma: Tensor, strength: Tensor) -> Tensor:
    """Film grain: `noise` like the pictures, blurred by `sigma` (N,) pixels, `strength` (N,) its deviation in the

    mid-tones (as `tones.film_grain`)."""
    soft = blur(noise, sigma)
    unit = soft / soft.std((1, 2, 3), keepdim=True).clamp_min(1e-3)
    return (pictures + column(strength) * (0.3 + 2.8 * pictures * (1 - pictures)) * unit).clamp(0, 1)


def halftoned(pictures: Tensor, period: Tensor, angles: Tensor, contrast: Tensor, amount: Tensor) -> Tensor:
    """A scanned print: dots of `period` (N,) pixels, a screen for each channel at its angle (N, 3) in radians, so that

    one angle for all is a grey print's (as `tones.halftone`)."""
    height, width = pictures.shape[2:]
    line = torch.arange(max(height, width), dtype=pictures.dtype, device=pictures.device)
    turns = 2 * math.pi / column(period)
    x, y = turns * line[:width].view(1, 1, 1, -1), turns * line[:height].view(1, 1, -1, 1)
    cos, sin = column(angles.cos()), column(angles.sin())
    screen = 0.5 + 0.25 * ((cos * x + sin * y).cos() + (cos * y - sin * x).cos())
    dots = torch.sigmoid(column(contrast) * (pictures - screen))
    soft = blur(dots, torch.full_like(amount, 0.8))
    return pictures + column(amount) * (soft - pictures)


def _quantised(planes: Tensor, table: Tensor, scale: Tensor) -> Tensor:
    """Planes (N, C, H, W) around 0 after rounding of their blocks' frequencies."""
    count, channels, height, width = planes.shape
    blocks = planes.reshape(count, channels, height // BLOCK, BLOCK, width // BLOCK, BLOCK).transpose(3, 4)
    basis = _dct(planes)
    steps = (table * scale.view(-1, 1, 1)).round().clamp(1, 255).view(count, 1, 1, 1, BLOCK, BLOCK) / 255.0
    kept = (basis @ blocks @ basis.T / steps).round() * steps
    return (basis.T @ kept @ basis).transpose(3, 4).reshape(planes.shape)


def _dct(like: Tensor) -> Tensor:
    """The orthonormal DCT-II of eight samples: rows are frequencies."""
    steps = torch.arange(BLOCK, dtype=like.dtype, device=like.device)
    basis = torch.cos(math.pi / BLOCK * (steps[None] + 0.5) * steps[:, None]) * math.sqrt(2 / BLOCK)
    basis[0] /= math.sqrt(2)
    return basis


def _mixed(pictures: Tensor, matrix: Tensor) -> Tensor:
    return torch.einsum("oc,nchw->nohw", matrix, pictures)


def _moments(pictures: Tensor, inside: Tensor) -> tuple[Tensor, Tensor]:
    area = inside.sum((2, 3), keepdim=True).clamp_min(1.0)
    mean = (pictures * inside).sum((2, 3), keepdim=True) / area
    return mean, (((pictures - mean) ** 2 * inside).sum((2, 3), keepdim=True) / area).sqrt()
