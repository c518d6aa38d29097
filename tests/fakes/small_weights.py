"""A weight set of small networks with random weights in a directory of the test's own: for the real loader and engine,
where it does not matter what the scores are."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import torch
from safetensors.torch import save_file

from streamwatch.inference.blazeface import BlazeFace
from streamwatch.inference.crop import CROP_VERSION
from streamwatch.inference.members import MemberSpec, build_member
from streamwatch.inference.weights import MANIFEST, file_hash


def write_weights(
    directory: Path, members: tuple[str, ...] = ("TimmV2", "ViT"), input_size: int = 64
) -> dict[str, Any]:
    """Writes the files and the manifest, and returns the manifest."""
    torch.manual_seed(0)
    detector = BlazeFace()
    for head in (detector.classifier_8, detector.classifier_16):
        assert head.bias is not None
        torch.nn.init.constant_(head.bias, -8.0)  # or every anchor would be a face, and sorting them out takes seconds
    save_file(detector.state_dict(), str(directory / "blazeface.safetensors"))
    records = []
    for index, name in enumerate(members):
        spec = MemberSpec(backbone="test_efficientnet.r160_in1k", input_size=input_size, mask_channels=8)
        file = directory / f"{name.lower()}.safetensors"
        save_file({key: value.contiguous() for key, value in build_member(spec).state_dict().items()}, str(file))
        records.append(
            {
                "name": name,
                "file": file.name,
                "sha256": file_hash(file),
                "architecture": spec.to_dict(),
                "crop": CROP_VERSION,
                "temperature": 1.0 + index,
                "bias": 0.5 * index,
            }
        )
    manifest = {
        "format": 1,
        "detectors": {
            "blazeface": {
                "file": "blazeface.safetensors",
                "sha256": file_hash(directory / "blazeface.safetensors"),
                "score_threshold": 0.5,
            }
        },
        "sets": {
            "bundled": {
                "version": "test",
                "fusion": "logit_mean",
                "threshold": 0.5,
                "disagreement_p99": 3.0,
                "members": records,
            }
        },
    }
    (directory / MANIFEST).write_text(json.dumps(manifest), encoding="utf-8")
    return manifest
