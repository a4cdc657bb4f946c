"""Evidence worth keeping: the small files of a result, copied to docs/results/NAME."""

import shutil
from pathlib import Path

from dg.runtime.files import atomic_write

MOST_BYTES = 2_000_000  # of one file in the repository


def publish(results: Path, name: str, docs=Path("docs/results")) -> Path:
    """Copy results.json, report.md and the pictures; ValueError for a file that is too large to
    keep."""
    target = docs / name
    target.mkdir(parents=True, exist_ok=True)
    for path in sorted(results.iterdir()):
        if path.suffix not in (".json", ".md", ".png"):
            continue
        if path.stat().st_size > MOST_BYTES:
            raise ValueError(f"{path}: larger than {MOST_BYTES} bytes; make the picture smaller")
        if path.suffix == ".png":
            _copy_small(path, target / path.name)
        else:
            shutil.copy(path, target / path.name)
    return target


def _copy_small(path: Path, target: Path) -> None:
    """Copy a picture with a palette of 256 colours, a third of the size; figures and digits look
    the same."""
    from PIL import Image

    with Image.open(path) as picture:
        small = picture.convert("RGB").quantize(256, dither=Image.Dither.NONE)
    with atomic_write(target) as file:
        small.save(file, "png", optimize=True)
