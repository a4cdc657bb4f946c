"""From images to latents: any source of images through a VAE's encoder into a resumable store."""

from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager, suppress
from dataclasses import asdict, dataclass
from functools import partial
from typing import NamedTuple

import numpy as np
import torch
from torch import Tensor

from dg.data.image_stream import ImageStream
from dg.data.images import to_float
from dg.data.latents import LatentStore
from dg.fingerprints import fingerprint
from dg.runtime.counted_work import CountedWork
from dg.runtime.memory import in_chunks
from dg.runtime.processes import SINGLE_PROCESS, Ranks, WorkList
from dg.runtime.progress import Progress, Stopped, silent, unheard
from dg.runtime.randomness import step_generator
from dg.runtime.run_folder import sole_writer


@dataclass(frozen=True)
class Encoding:
    """How to encode images."""

    resolution: int = 256  # side of the crops in pixels
    # encode a mirrored copy of every image too: a mirrored latent is not the latent of a mirrored
    # image
    flip: bool = False
    sample: bool = True  # a draw from the posterior, or its mean
    dtype: str = "float32"  # or "float16", half as large; see Made
    seed: int = 0  # seed of the draws

    def __post_init__(self):
        if self.dtype not in ("float32", "float16"):
            raise ValueError(f"dtype is {self.dtype!r}; use float32 or float16")


class Made(NamedTuple):
    """Result of `encode`.

    latents   number of them, of all processes together
    rounding  root mean square of the rounding errors of float16 in this process's latents; None if
              it has made none
    spread    root mean square of the posterior's standard deviation, the yardstick for it
    """

    latents: int
    rounding: float | None
    spread: float | None


def latent_store(
    outdir,
    images: ImageStream,
    vae,
    settings: Encoding,
    batch_size: int,
    used: dict | None = None,
    ranks: Ranks = SINGLE_PROCESS,
) -> LatentStore:
    """The store that `encode` fills, new or gone on with; ValueError for one of other images, VAE
    or settings.

    used, ranks  of this run, as of `SampleStore`
    """
    described = {
        "images": images.fingerprint(),
        "vae": fingerprint(vae),
        "scale": vae.config.scaling_factor,
    } | asdict(settings)
    # mirrored copies follow, so they may be added later
    number = len(images) * (1 + described.pop("flip"))
    names = images.class_names
    about = dict(class_names=names, used=used, ranks=ranks)
    return LatentStore(outdir, described, range(number), batch_size, **about)


def encode(
    vae,
    images: ImageStream,
    store: LatentStore,
    settings: Encoding,
    device="cpu",
    progress: Progress = silent,
    ranks: Ranks = SINGLE_PROCESS,
    notify: Callable[[str], None] = unheard,
) -> Made:
    """Fill the store with the batches it still lacks. Each process takes the next one when it is
    free.

    vae  as of `dg.models.autoencoder.load_vae`: its posterior's mean or a draw, times its scaling
         factor, is the latent

    Images are read while others are encoded. Where `progress` asks to end, by `Stopped`, all
    processes finish their batches and pass it on. A latent depends on its image, its place in the
    set and the seed, and on its batch by rounding alone.
    """
    with sole_writer(store.outdir, ranks):
        work = CountedWork(ranks, ranks.by_first(store.pending), progress, "latents")
        shown, mine, most, squares = 0, 0, store.batch_size, []

        def read(index):
            places = np.array(store.batches()[index]) % len(images)
            return places, images.crops(places, settings.resolution)

        with suppress(Stopped):
            next(work.bar, None)
            for (place, index), (places, crops) in _read_ahead(work, read):
                mirrored = np.array(store.batches()[index]) >= len(images)
                batch = partial(_encoded, vae, crops, places, mirrored, settings, device)
                pieces, most = in_chunks(batch, len(places), most, notify)
                latents, std = (np.concatenate(arrays) for arrays in zip(*pieces, strict=True))
                half = latents.astype(np.float16)
                squares.append(
                    [len(places) * float(np.mean(np.square(x))) for x in (latents - half, std)]
                    + [len(places)]
                )
                store.write(
                    index,
                    half if settings.dtype == "float16" else latents,
                    None if images.labels is None else images.labels[places],
                )
                mine += 1
                for _ in range(shown, place + 1):
                    next(work.bar, None)
                shown = place + 1
        work.close()
        images.tell()
        work.end(mine)
    rounding, spread, count = np.sum(squares, axis=0) if squares else (0, 0, 0)
    number = sum(len(store.batches()[index]) for index in work.items)
    return Made(
        number, *((rounding / count) ** 0.5, (spread / count) ** 0.5) if count else (None, None)
    )


def _read_ahead(work: WorkList, read) -> Iterator[tuple]:
    """Yield (item, read(item's index)) of every item of work; the next one is read meanwhile."""
    with ThreadPoolExecutor(max_workers=1) as thread:
        before = None
        for item in work:
            reading = thread.submit(read, item[1])
            if before is not None:
                yield before[0], before[1].result()
            before = item, reading
        if before is not None:
            yield before[0], before[1].result()


@contextmanager
def _without_tf32():
    """GPUs compute in float32 within: the posterior is narrow."""
    holders = torch.backends.cudnn, torch.backends.cuda.matmul
    before = [holder.allow_tf32 for holder in holders]
    for holder in holders:
        holder.allow_tf32 = False
    try:
        yield
    finally:
        for holder, allowed in zip(holders, before, strict=True):
            holder.allow_tf32 = allowed


@torch.no_grad()
def _encoded(
    vae,
    crops: np.ndarray,
    places: np.ndarray,
    mirrored: np.ndarray,
    settings: Encoding,
    device,
    part: slice,
) -> tuple[np.ndarray, np.ndarray]:
    """(latents, posterior's standard deviation), both scaled, float32 [n, C, h, w], of a part.

    crops             uint8 [N, R, R, 3]
    places, mirrored  [N]  in the set; whether it is the mirrored copy
    """
    crops, places, mirrored = crops[part], places[part], mirrored[part]
    x = to_float(crops)
    x = torch.where(torch.from_numpy(mirrored).reshape(-1, 1, 1, 1), x.flip(-1), x)
    with _without_tf32():
        posterior = vae.encode(x.to(device)).latent_dist
    mean, std = (
        vae.config.scaling_factor * tensor.to("cpu", torch.float32)
        for tensor in (posterior.mean, posterior.std)
    )
    latents = (
        mean + std * _noise(mean.shape[1:], places, mirrored, settings.seed)
        if settings.sample
        else mean
    )
    if not latents.isfinite().all():
        raise ValueError("the VAE's latents are not finite; check its weights, or use float32")
    return latents.numpy(), std.numpy()


def _noise(shape, places: np.ndarray, mirrored: np.ndarray, seed: int) -> Tensor:
    """Normal noise [N, C, h, w] that depends on an image's place, whether it is mirrored, and the
    seed."""
    stages = ("mirrored latent" if flip else "latent" for flip in mirrored)
    return torch.stack(
        [
            torch.randn(shape, generator=step_generator(seed, stage, place))
            for stage, place in zip(stages, places, strict=True)
        ]
    )
