"""Images of a system, by whatever sampler: into stores that are filled up after an interruption."""

import math
from collections.abc import Sequence
from dataclasses import asdict
from pathlib import Path

import numpy as np
import torch

from dg.data.datasets import open_images, to_float
from dg.data.sample_store import SampleStore
from dg.discriminator import Discriminator, LogRatio
from dg.experiments.context import Context, Paths
from dg.experiments.study import System
from dg.samplers.acceptance import finished_log_ratios, most_acceptable
from dg.samplers.constants import RejectionSampling, with_measured_constants
from dg.samplers.filling import fill_by_rejection
from dg.sampling import ScoreModel, describe

SPARE_SEED = 100_000_000  # of images that are drawn beside those of a set, to choose from


def draw_sets(
    context: Context,
    folder: Path,
    paths: Paths,
    system: System,
    firsts: Sequence[int],
    count: int,
    pools: Path | None = None,
) -> None:
    """Fill set0, set1 ... in a folder with `count` images of a settled system each, from the seed
    that is its first on.

    pools  where `draw_pools` has put the finished images that are chosen from; None: it puts them
           in the same folder
    """
    if system.kept and pools is None:
        draw_pools(context, folder, paths, system, firsts, count)
    net, sampling, discriminator, guidance = context.drawn_by(paths, system)
    if isinstance(sampling, RejectionSampling):
        run = dict(device=context.device, progress=context.progress, ranks=context.ranks)
        sampling = with_measured_constants(net, sampling, guidance, folder, **run)
    for index, first in enumerate(firsts):
        path, seeds = folder / f"set{index}", range(first, first + count)
        if system.kept:
            pool = (pools or folder) / f"pool{index}"
            described = describe(net, sampling, guidance)
            _keep(context, path, pool, system, discriminator, count, described)
        elif isinstance(sampling, RejectionSampling):
            _reject(context, path, net, sampling, guidance, seeds)
        else:
            context.sample(path, net, sampling, seeds, guidance)


def draw_pools(
    context: Context, folder: Path, paths: Paths, system: System, firsts: Sequence[int], count: int
) -> None:
    """Fill pool0, pool1 ... in a folder with the finished images of which a system keeps its
    share."""
    net, sampling, _, guidance = context.drawn_by(paths, system)
    for index, first in enumerate(firsts):
        seeds = pool_seeds(range(first, first + count), system.kept.share)
        context.sample(folder / f"pool{index}", net, sampling, seeds, guidance)


def pool_seeds(seeds: range, share: float) -> list[int]:
    """The seeds of a set, and of the images that are drawn beside so that it is this share."""
    more, first = math.ceil(len(seeds) / share) - len(seeds), SPARE_SEED + 16 * seeds[0]
    return [*seeds, *range(first, first + more)]


def _reject(context, path: Path, model: ScoreModel, sampling, guidance, seeds: range) -> None:
    described, size = describe(model, sampling, guidance), context.setting.batch_size
    store = SampleStore(path, described, list(seeds), size, ranks=context.ranks)
    run = dict(device=context.device, progress=context.progress, ranks=context.ranks)
    fill_by_rejection(model, store, sampling, guidance, **run)


def _keep(
    context, path, pool, system: System, discriminator: Discriminator, count: int, described: dict
) -> None:
    """Fill the store at `path` with those of the pool's images that are accepted."""
    stream, size, ratio = open_images(pool), context.setting.batch_size, LogRatio(discriminator)
    images, seeds, found = stream.load(None), stream.seeds.tolist(), []
    for first in range(0, len(seeds), size):
        part, labels = slice(first, first + size), None
        if discriminator.conditional:
            one_hot = np.eye(images.num_classes, dtype=np.float32)[images.labels[part]]
            labels = torch.from_numpy(one_hot).to(context.device)
        x = to_float(images.images[part]).to(context.device)
        found.append(finished_log_ratios(ratio, x, system.kept.sigma, seeds[part], labels))
    chosen = most_acceptable(torch.cat(found), count, seeds).tolist()
    place = {seeds[row]: row for row in chosen}
    described = described | {"kept": asdict(system.kept), "log ratio": ratio.describe()}
    store = SampleStore(path, described, list(place), size, ranks=context.ranks)
    for index in store.pending():
        rows = [place[seed] for seed in store.batches()[index]]
        labels = None if images.labels is None else images.labels[rows]
        store.write(index, images.images[rows], labels)
    store.finish()
