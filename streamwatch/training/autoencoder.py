"""Small face auto-encoders: their reconstructions carry what every face generator leaves behind.

A swap's decoder paints skin a little too smooth, loses noise and fine hair, and shifts colours. Auto-encoders that are
trained for a minute or two on real faces do the same, and differ by their bottleneck and by how they upsample.
"""

from __future__ import annotations

import argparse
from collections.abc import Sequence
from dataclasses import asdict, dataclass
from pathlib import Path

import cv2
import numpy as np
import torch
from rich.progress import track
from safetensors.torch import load_file, save_file
from torch import Tensor, nn
from torch.nn import functional as F

from streamwatch.domain import Image
from streamwatch.training.faces import DatasetError, FaceSet, load_labelled_faces
from streamwatch.training.fakes import Reconstruct
from streamwatch.training.geometry import FaceGeometry

FACE_SIDE = 1.25
"""Side of the square that is reconstructed, per longer side of the face's outline."""


@dataclass(frozen=True, slots=True)
class AutoencoderSpec:
    """`size` is the picture's side, `width` the first layer's channels, `halvings` how often it is halved, `code` the

    bottleneck's channels, `shuffle` whether it upsamples by sub-pixel shuffling (as swap decoders do) or bilinearly."""

    size: int
    width: int
    halvings: int
    code: int
    shuffle: bool

    @property
    def name(self) -> str:
        kind = "shuffle" if self.shuffle else "bilinear"
        return f"ae{self.size}_w{self.width}_h{self.halvings}_c{self.code}_{kind}"


DEFAULT_SPECS = (
    AutoencoderSpec(64, 24, 3, 24, True),
    AutoencoderSpec(96, 16, 3, 16, False),
    AutoencoderSpec(128, 16, 3, 16, True),
    AutoencoderSpec(96, 24, 4, 48, True),
    AutoencoderSpec(128, 16, 4, 64, False),
    AutoencoderSpec(128, 24, 2, 16, True),
    AutoencoderSpec(192, 16, 3, 32, True),
    AutoencoderSpec(160, 16, 3, 48, False),
)
"""The last three keep most of a face's detail, as decoders of today's swaps do; the others paint it visibly soft."""


class FaceAutoencoder(nn.Module):
    """RGB in 0..1, (N, 3, size, size), to its reconstruction in the same form."""

    def __init__(self, spec: AutoencoderSpec) -> None:
        super().__init__()
        self.spec = spec
        widths = [min(96, spec.width * 2**i) for i in range(spec.halvings)]
        down: list[nn.Module] = []
        for before, after in zip([3, *widths], widths, strict=False):
            down += [nn.Conv2d(before, after, 5, 2, 2), nn.LeakyReLU(0.1)]
        self.encoder = nn.Sequential(*down, nn.Conv2d(widths[-1], spec.code, 1))
        up: list[nn.Module] = []
        for before, after in zip([spec.code, *widths[:0:-1]], widths[::-1], strict=False):
            up += _upsample(before, after, spec.shuffle)
        self.decoder = nn.Sequential(*up, nn.Conv2d(widths[0], 3, 3, 1, 1))

    def forward(self, x: Tensor) -> Tensor:
        result: Tensor = self.decoder(self.encoder(x - 0.5))
        return result + 0.5


def _upsample(before: int, after: int, shuffle: bool) -> list[nn.Module]:
    if shuffle:
        return [nn.Conv2d(before, 4 * after, 3, 1, 1), nn.LeakyReLU(0.1), nn.PixelShuffle(2)]
    return [
        nn.Upsample(scale_factor=2, mode="bilinear", align_corners=False),
        nn.Conv2d(before, after, 3, 1, 1),
        nn.LeakyReLU(0.1),
    ]


def face_square(image: Image, geometry: FaceGeometry, size: int) -> tuple[Image, np.ndarray]:
    """The face's square at size x size, and the 2 x 3 map from the square's pixels back to the picture's."""
    low, high = geometry.outline.min(0), geometry.outline.max(0)
    side = FACE_SIDE * float((high - low).max())
    scale = side / size
    centre = (low + high) / 2
    back = np.array([(scale, 0, centre[0] - scale * (size - 1) / 2), (0, scale, centre[1] - scale * (size - 1) / 2)])
    flags = cv2.INTER_LINEAR | cv2.WARP_INVERSE_MAP
    # An area filter comes before the warp where the face shrinks, or the decoder would learn aliasing.
    smooth = cv2.GaussianBlur(image, (0, 0), 0.4 * scale) if scale > 1.2 else image
    square = cv2.warpAffine(smooth, back, (size, size), flags=flags, borderMode=cv2.BORDER_REPLICATE)
    return np.asarray(square, np.uint8), back


def train_autoencoder(faces: FaceSet, spec: AutoencoderSpec, steps: int, seed: int = 0) -> FaceAutoencoder:
    """L1 reconstruction of face squares, `steps` batches of 16."""
    torch.manual_seed(seed)
    rng = np.random.default_rng(seed)
    squares = np.stack([face_square(i, g, spec.size)[0] for i, g in zip(faces.images, faces.geometries, strict=True)])
    network = FaceAutoencoder(spec).to(memory_format=torch.channels_last)
    optimizer = torch.optim.AdamW(network.parameters(), lr=2e-3)
    schedule = torch.optim.lr_scheduler.OneCycleLR(optimizer, 3e-3, total_steps=steps)
    for _ in track(range(steps), spec.name):
        rows = squares[rng.integers(0, len(squares), 16)]
        if rng.random() < 0.5:
            rows = rows[:, :, ::-1]
        batch = torch.from_numpy(np.ascontiguousarray(rows)).permute(0, 3, 1, 2).float() / 255.0
        loss = F.l1_loss(network(batch), batch)
        optimizer.zero_grad(set_to_none=True)
        loss.backward()  # type: ignore[no-untyped-call]
        optimizer.step()
        schedule.step()
    trained: FaceAutoencoder = network.eval()
    return trained


def save_autoencoder(network: FaceAutoencoder, folder: Path) -> Path:
    """Write it as safetensors whose header carries the spec."""
    folder.mkdir(parents=True, exist_ok=True)
    path = folder / f"{network.spec.name}.safetensors"
    state = {key: value.half().contiguous() for key, value in network.state_dict().items()}
    save_file(state, path)
    return path


def load_autoencoders(folder: Path, specs: Sequence[AutoencoderSpec] = DEFAULT_SPECS) -> list[FaceAutoencoder]:
    """Those of `specs` that lie in the folder; DatasetError where there is none."""
    found = []
    for spec in specs:
        path = folder / f"{spec.name}.safetensors"
        if path.exists():
            network = FaceAutoencoder(spec)
            network.load_state_dict({key: value.float() for key, value in load_file(path).items()})
            found.append(network.eval())
    if not found:
        raise DatasetError(f"{folder}: no auto-encoder of {[asdict(spec) for spec in specs]}")
    return found


def reconstructor(networks: Sequence[FaceAutoencoder]) -> Reconstruct:
    """The function that `fakes.make_fake` calls: one of the networks, drawn at random, repaints the face."""

    @torch.inference_mode()
    def reconstruct(image: Image, geometry: FaceGeometry, rng: np.random.Generator) -> Image:
        network = networks[int(rng.integers(len(networks)))]
        square, back = face_square(image, geometry, network.spec.size)
        batch = torch.from_numpy(square).permute(2, 0, 1)[None].float() / 255.0
        painted = network(batch)[0].clamp(0, 1).mul(255.0).permute(1, 2, 0).round().byte().numpy()
        canvas = image.copy()
        size = (image.shape[1], image.shape[0])
        flags = (cv2.INTER_LINEAR, cv2.INTER_CUBIC)[int(rng.integers(2))]
        cv2.warpAffine(painted, back, size, dst=canvas, flags=flags, borderMode=cv2.BORDER_TRANSPARENT)
        return canvas

    return reconstruct


def main(words: Sequence[str] | None = None) -> int:
    """Train the default auto-encoders and write them to a folder."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--data-dir", type=Path, required=True, help="folder of labelled faces, or a pack")
    parser.add_argument("--output", type=Path, required=True, help="folder for the auto-encoders")
    parser.add_argument("--steps", type=int, default=1500, help="batches of 16 for each")
    parser.add_argument("--limit", type=int, default=4000, help="use only so many faces")
    args = parser.parse_args(words)
    faces = load_labelled_faces(args.data_dir, "train", args.limit)
    for spec in DEFAULT_SPECS:
        print(save_autoencoder(train_autoencoder(faces, spec, args.steps), args.output))
    return 0


if __name__ == "__main__":
    raise SystemExit(main())
