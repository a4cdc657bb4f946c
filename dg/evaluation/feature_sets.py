"""Features of a set of images, computed once: what every metric needs, in memory and in files."""

import hashlib
import json
from collections.abc import Callable
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path

import numpy as np
import torch

from dg.data.array_files import FEATURES, array_names, read_arrays
from dg.data.image_stream import ImageStream, stream_of
from dg.data.images import ImageSet, describe
from dg.evaluation.features import Extractor
from dg.evaluation.manifolds import ball_radii2
from dg.evaluation.metrics import FeatureStatistics, covariance_fault, frechet_distance, statistics
from dg.runtime.files import atomic_write
from dg.runtime.memory import in_chunks
from dg.runtime.processes import SINGLE_PROCESS, Ranks
from dg.runtime.progress import Progress, silent, unheard
from tensor_files.reading import parsing

MOMENTS = ("mu", "sigma", "mu_s", "sigma_s")


@dataclass(frozen=True)
class FeatureSet:
    """Features of images, or their statistics alone.

    name         where the images came from
    num_images   None where a statistics file does not tell
    fingerprint  of the images, 16 hex digits; None likewise
    extractor    `Extractor.describe()` of what made the features; None likewise
    mu, sigma    float64 [D], [D, D]
    spatial      the same two of the spatial features, or None
    features     float32 [N, D], or None where only statistics are kept
    logits       float32 [N, K], or None
    """

    name: str
    num_images: int | None
    fingerprint: str | None
    extractor: dict | None
    mu: np.ndarray
    sigma: np.ndarray
    spatial: tuple[np.ndarray, np.ndarray] | None = None
    features: np.ndarray | None = None
    logits: np.ndarray | None = None

    def distance(self, other: "FeatureSet") -> float:
        """Fréchet distance to another set in the same features."""
        return frechet_distance(self.mu, self.sigma, other.mu, other.sigma)

    @cached_property
    def ball_radii2(self) -> np.ndarray:
        """`dg.evaluation.manifolds.ball_radii2` of the features, computed once for all sets that
        are compared with this one."""
        return ball_radii2(self.features)

    def describe(self) -> dict:
        """The entry of a results file about this set."""
        return {"source": self.name, "num_images": self.num_images, "fingerprint": self.fingerprint}


def collect(
    extractor: Extractor,
    stream: ImageStream,
    positions: np.ndarray,
    batch_size: int = 64,
    keep: bool = True,
    progress: Progress = silent,
    ranks: Ranks = SINGLE_PROCESS,
    notify: Callable[[str], None] = unheard,
) -> FeatureSet | None:
    """Features of the images at `positions` of a stream; None at all processes but the first.

    keep  hold features and logits of every image; else memory does not depend on their number

    Which process computes what changes nothing but the order of float64 sums. Batches that do not
    fit into memory are halved, of which `notify` is told.
    """
    extractor.check(stream.name, stream.shape)
    if len(positions) < 2:
        raise ValueError(f"{stream.name}: {len(positions)} image; give at least 2")
    sums = {"features": FeatureStatistics(), "spatial": FeatureStatistics()}
    kept, digests, most = {"features": {}, "logits": {}}, {}, batch_size
    batches = -(-len(positions) // batch_size)
    bar = iter(
        progress(
            range(len(range(ranks.rank, batches, ranks.world))),
            desc=Path(stream.name).name,
            unit="batch",
        )
    )
    for index, images in stream.batches(positions, batch_size, ranks.rank, ranks.world):
        pieces, most = in_chunks(lambda part: extractor(images[part]), len(images), most, notify)  # noqa: B023
        named = {name: torch.cat([piece[name] for piece in pieces]) for name in pieces[0]}
        digests[index] = [hashlib.sha256(image.tobytes()).digest() for image in images]
        for name, accumulated in sums.items():
            if name in named:
                accumulated.update(named[name])
        for name, rows in kept.items():
            if keep and name in named:
                rows[index] = named[name].numpy()
        next(bar, None)
    next(bar, None)
    parts = ranks.gather((sums, kept, digests))
    if parts is None:
        return None
    for others, _, _ in parts[1:]:
        for name, accumulated in others.items():
            sums[name].merge(accumulated)
    joined = {name: _in_order([part[1][name] for part in parts]) for name in kept}
    every = {index: rows for part in parts for index, rows in part[2].items()}
    fingerprint = hashlib.sha256(
        b"".join(digest for index in sorted(every) for digest in every[index])
    ).hexdigest()[:16]
    spatial = sums["spatial"]
    return FeatureSet(
        stream.name,
        len(positions),
        fingerprint,
        extractor.describe(),
        sums["features"].mu,
        sums["features"].sigma,
        (spatial.mu, spatial.sigma) if spatial.num_x else None,
        **joined,
    )


def features_of(images: ImageSet, extractor: Extractor, batch_size: int = 64) -> FeatureSet:
    """Features of images in memory, for `metric_estimates`; ValueError for images that the
    extractor does not take."""
    return collect(extractor, stream_of(images), np.arange(len(images)), batch_size)


def _in_order(parts: list[dict[int, np.ndarray]]) -> np.ndarray | None:
    """Rows of all batches in the order of the batches, which are given up one by one; None if there
    are none."""
    rows = {index: batch for part in parts for index, batch in part.items()}
    if not rows:
        return None
    first = next(iter(rows.values()))
    joined, start = np.empty((sum(map(len, rows.values())), *first.shape[1:]), first.dtype), 0
    for index in sorted(rows):
        batch = rows.pop(index)
        for part in parts:
            part.pop(index, None)
        joined[start : start + len(batch)] = batch
        start += len(batch)
    return joined


def save_features(path, features: FeatureSet, used: dict | None = None) -> None:
    """Write statistics (EDM's keys `mu` and `sigma`, ADM's `mu_s` and `sigma_s`), and the features
    where they are kept; `about` records the images, the extractor and the command's `used`."""
    arrays = {"mu": features.mu, "sigma": features.sigma}
    if features.spatial:
        arrays |= {"mu_s": features.spatial[0], "sigma_s": features.spatial[1]}
    arrays |= {
        name: value
        for name in ("features", "logits")
        if (value := getattr(features, name)) is not None
    }
    about = features.describe() | {"extractor": features.extractor}
    about |= {"used": used} if used else {}
    with atomic_write(path) as file:
        np.savez(file, about=json.dumps(about), **arrays)


def load_features(path, extractor: Extractor | None = None) -> FeatureSet:
    """Read a file of `save_features`; statistics in the form of EDM, ADM, clean-fid or pytorch-fid;
    or features of dgm-eval or clean-fid. Those of others do not name their images and extractor.

    ValueError if the file is damaged, or was made with another extractor than the given one.
    """
    names = array_names(path)
    if not {"mu", "sigma"} & set(names) and (key := next(filter(names.count, FEATURES), None)):
        return _of_features(path, key)
    if missing := [name for name in ("mu", "sigma") if name not in names]:
        raise ValueError(f"{path}: not readable statistics (no {missing[0]}); get the file again")
    wanted = [name for name in (*MOMENTS, "features", "logits", "about") if name in names]
    arrays = dict(zip(wanted, read_arrays(path, *wanted), strict=True))
    about = _about(path, arrays.pop("about", "{}"))
    for name, array in arrays.items():
        arrays[name] = _checked(path, name, array)
    mu, sigma = arrays.pop("mu"), arrays.pop("sigma")
    _check_moments(path, mu, sigma)
    made_by = about.get("extractor")
    if (
        extractor is not None
        and made_by is not None
        and _identity(made_by) != _identity(extractor.describe())
    ):
        raise ValueError(
            f"{path}: statistics of the extractor {made_by['name']} ({made_by['sha256'][:8]}), not "
            f"of {extractor.name} ({extractor.sha256[:8]}); make them again with `python fid.py "
            "ref`"
        )
    spatial = None
    if {"mu_s", "sigma_s"} <= set(arrays):
        spatial = (arrays.pop("mu_s"), arrays.pop("sigma_s"))
        _check_moments(path, *spatial)
    if "features" in arrays and arrays["features"].shape[1:] != mu.shape:
        raise ValueError(f"{path}: its features are not those of mu and sigma; get the file again")
    return FeatureSet(
        str(path),
        about.get("num_images"),
        about.get("fingerprint"),
        made_by,
        mu,
        sigma,
        spatial,
        arrays.get("features"),
        arrays.get("logits"),
    )


def _of_features(path, key) -> FeatureSet:
    """Features that another project has kept, and their statistics."""
    (features,) = read_arrays(path, key)
    features = _checked(path, key, features).astype(np.float32)  # as networks made them
    if len(features) < 2:
        raise ValueError(f"{path}: {len(features)} image; give at least 2")
    return FeatureSet(str(path), len(features), None, None, *statistics(features), None, features)


def _about(path, text) -> dict:
    """What `save_features` has noted, as far as it is needed; nothing in foreign files."""
    with parsing(path, "get or make the file again", "not readable statistics"):
        about = json.loads(str(text))
        extractor = about.get("extractor")
        if extractor is not None:
            (extractor["name"] + extractor["sha256"]).encode()
        if not isinstance(about.get("num_images"), int | None):
            raise ValueError("num_images is no number")
        if not isinstance(about.get("fingerprint"), str | None):
            raise ValueError("fingerprint is no text")
        return about


def _checked(path, name, array) -> np.ndarray:
    """An array of finite floats: float64 for moments, as it is for features and logits."""
    if array.dtype.kind not in "fiu" or array.ndim != (1 if name.startswith("mu") else 2):
        found = f"{name} is {describe(array)}"
        raise ValueError(f"{path}: not readable statistics ({found}); get or make the file again")
    if not np.isfinite(array).all():
        name = "mu or sigma" if name in MOMENTS else name
        raise ValueError(f"{path}: {name} holds NaN or infinity; get or make the file again")
    return array.astype(np.float64) if name in MOMENTS else array


def _check_moments(path, mu, sigma) -> None:
    if sigma.shape != (len(mu), len(mu)) or not len(mu):
        raise ValueError(
            f"{path}: mu {list(mu.shape)} and sigma {list(sigma.shape)} are not statistics; "
            "give a file with [D] and [D, D]"
        )
    if fault := covariance_fault(sigma):
        raise ValueError(
            f"{path}: sigma is no covariance matrix: {fault}; get or make the file again"
        )


def _identity(extractor: dict) -> tuple:
    return extractor.get("name"), extractor.get("sha256")
