"""Faces carried from one frame to the next by their motion, so that at high rates not every frame needs the detector.

The median flow of Z. Kalal, K. Mikolajczyk and J. Matas, "Forward-Backward Error: Automatic Detection of Tracking
Failures" (ICPR 2010): points on a grid over the face are followed by pyramidal Lucas-Kanade there and back again; those
that return to where they began vote for the face's shift and change of size. Pure: time is the frames'.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace

import cv2
import numpy as np

from streamwatch.domain import Box, Face, Floats, Frame, Image
from streamwatch.scoring.quality import host_pixels

SIDE = 480
"""The longer side, in pixels, of the grey picture that the motion is measured on."""
GRID = 7
"""Points across and down a face."""
INSIDE = 0.8
"""The share of the box, about its middle, that the points lie in: its corners show the background."""
MIN_POINTS = 12
"""Of GRID x GRID; with fewer left nobody knows where the face went."""
MAX_RETURN = 1.0
"""Pixels of the grey picture by which a point may miss its start on the way back."""
MAX_RESIZE = 1.3
"""A face that grew or shrank by more between two frames was not followed but lost."""
_LK = {
    "winSize": (15, 15),
    "maxLevel": 3,
    "criteria": (cv2.TERM_CRITERIA_EPS | cv2.TERM_CRITERIA_COUNT, 20, 0.03),
}


class FaceFollower:
    """The faces of one stream between two detections. `max_fps`: detections a second; at lower rates every frame is
    detected and nothing here costs anything."""

    def __init__(self, max_fps: float) -> None:
        # A little early: the frames of a source at just this rate do not come to the millisecond.
        self._interval = 0.9 / max_fps
        self._detected_at = float("-inf")
        self._frame: Frame | None = None
        self._faces: tuple[Face, ...] = ()
        self._grey: tuple[Image, float] | None = None
        """of the last frame, once it is needed"""

    def detected(self, frame: Frame, faces: Sequence[Face]) -> None:
        """Takes in what the detector found."""
        self._detected_at = frame.captured_at.mono
        self._frame, self._faces, self._grey = frame, tuple(faces), None

    def follow(self, frame: Frame) -> tuple[Face, ...] | None:
        """Where the last frame's faces are now, each marked as not detected; None where the detector must look: it is
        due, the picture changed its size or lies on a device, or a face was lost."""
        before, elapsed = self._frame, frame.captured_at.mono - self._detected_at
        if before is None or not 0.0 <= elapsed < self._interval or before.size != frame.size:
            return None
        new = None
        faces: tuple[Face, ...] = ()
        if self._faces:
            old, new = self._grey or _grey(before.image), _grey(frame.image)
            if old is None or new is None:
                return None
            moved = [_moved(f, *points) for f, points in zip(self._faces, _flow(self._faces, old, new), strict=True)]
            faces = tuple(face for face in moved if face is not None)
            if len(faces) < len(moved):
                return None
        self._frame, self._faces, self._grey = frame, faces, new
        return faces


def _grey(image: object) -> tuple[Image, float] | None:
    """A grey picture of at most SIDE pixels, and its scale; None for an image off the host."""
    pixels = host_pixels(image)
    if pixels is None:
        return None
    height, width = pixels.shape[:2]
    scale = min(1.0, SIDE / max(height, width))
    size = (max(1, round(width * scale)), max(1, round(height * scale)))
    small = cv2.resize(np.ascontiguousarray(pixels), size, interpolation=cv2.INTER_LINEAR) if scale < 1 else pixels
    grey: Image = np.asarray(cv2.cvtColor(small, cv2.COLOR_RGB2GRAY), np.uint8)
    return grey, scale


def _flow(faces: Sequence[Face], old: tuple[Image, float], new: tuple[Image, float]) -> list[tuple[Floats, Floats]]:
    """For each face the points that were followed, (n, 2) in pixels of the frame: before and after."""
    (one, scale), (other, _) = old, new
    points = np.concatenate([_grid(face.box, scale) for face in faces])  # in one go: the pyramids are made but once
    there, found, _ = cv2.calcOpticalFlowPyrLK(one, other, points, None, **_LK)  # type: ignore[call-overload]
    back, returned, _ = cv2.calcOpticalFlowPyrLK(other, one, there, None, **_LK)  # type: ignore[call-overload]
    missed = np.linalg.norm(back - points, axis=2)
    kept = ((found == 1) & (returned == 1) & (missed <= MAX_RETURN))[:, 0]
    before, after = points[:, 0] / scale, there[:, 0] / scale
    parts = [slice(i, i + GRID * GRID) for i in range(0, len(points), GRID * GRID)]
    return [(before[part][kept[part]], after[part][kept[part]]) for part in parts]


def _moved(face: Face, before: Floats, after: Floats) -> Face | None:
    if len(before) < MIN_POINTS:
        return None
    resize = _resize(before, after)
    if not 1 / MAX_RESIZE <= resize <= MAX_RESIZE:
        return None
    box = face.box
    middle = np.array([(box.x0 + box.x1) / 2, (box.y0 + box.y1) / 2])
    # What each point says of the middle's new place, the change of size taken out.
    there = np.median(after - (before - middle) * resize, axis=0)
    half = np.array([box.width, box.height]) * resize / 2
    (x0, y0), (x1, y1) = there - half, there + half
    keypoints: Floats | None = None
    if face.keypoints is not None:
        keypoints = np.asarray((face.keypoints - middle) * resize + there, np.float32)
    return replace(face, box=Box(float(x0), float(y0), float(x1), float(y1)), keypoints=keypoints, detected=False)


def _grid(box: Box, scale: float) -> Floats:
    """(GRID * GRID, 1, 2) points in pixels of the grey picture."""
    margin = (1.0 - INSIDE) / 2
    steps = np.linspace(margin, 1.0 - margin, GRID, dtype=np.float32)
    xs, ys = np.meshgrid(box.x0 + steps * box.width, box.y0 + steps * box.height)
    return np.asarray(np.stack([xs, ys], axis=-1).reshape(-1, 1, 2) * scale, np.float32)


def _resize(a: Floats, b: Floats) -> float:
    """The median ratio of the points' distances from one another, after over before."""
    first, second = np.triu_indices(len(a), k=1)
    before = np.linalg.norm(a[first] - a[second], axis=1)
    after = np.linalg.norm(b[first] - b[second], axis=1)
    far = before > 1.0
    return float(np.median(after[far] / before[far])) if far.any() else 1.0
