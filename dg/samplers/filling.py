"""Rejection sampling into a store: shards fill as their seeds finish."""

import time
from collections.abc import Iterator

import numpy as np

import edm
from dg.data.datasets import to_uint8
from dg.data.sample_store import SampleStore
from dg.precision import autocast
from dg.runtime.counted_work import CountedWork
from dg.runtime.processes import SINGLE_PROCESS, Ranks
from dg.runtime.progress import Progress, silent
from dg.samplers.constants import RejectionSampling
from dg.samplers.rejection import rejection_sampler
from dg.sampling import GenerationResult, ScoreModel, check_class


def fill_by_rejection(
    model: ScoreModel,
    store: SampleStore,
    sampling: RejectionSampling,
    guidance: edm.Guidance | None = None,
    class_idx: int | None = None,
    device="cpu",
    progress: Progress = silent,
    ranks: Ranks = SINGLE_PROCESS,
    precision: str = "float32",
) -> GenerationResult:
    """Fill the store with the batches it still lacks; as `dg.sampling.generate`.

    model  with its log ratio

    Each process takes the next shard when its stream has room for a seed, and writes a shard when
    all of its seeds are finished. Calls of the networks hold `store.batch_size` images, so the
    images are the same whatever was there before. Where `progress` asks to end, no further shard
    is begun.
    """
    if precision == "bfloat16":
        raise ValueError(
            "bfloat16 decides otherwise than float32 where a state is nearly rejected; sample in "
            "float32 or float16"
        )
    check_class(model, class_idx, sampling)
    work = CountedWork(ranks, ranks.by_first(store.pending), progress, "images")
    total = sum(len(store.batches()[index]) for index in work.items)
    shelf, mine, start = _Shelf(store), 0, time.perf_counter()

    def seeds() -> Iterator[int]:
        for _, index in work:
            yield from shelf.begin(index)

    work.show(1)
    how = (model.log_ratio, sampling, guidance, class_idx, store.batch_size, device)
    with autocast(precision, device):
        for image in rejection_sampler(model.net, seeds(), *how):
            if shelf.put(image):
                mine += 1
                work.show(mine + 1)
    seconds = time.perf_counter() - start if total else 0.0
    work.end(mine)
    if ranks.first:
        store.finish()
    return GenerationResult(total, seconds)


class _Shelf:
    """Finished images that wait for the others of their shard."""

    def __init__(self, store: SampleStore):
        self.store, self.home, self.there = store, {}, {}

    def begin(self, index: int) -> list[int]:
        """The seeds of a shard, which is to be filled."""
        seeds = self.store.batches()[index]
        self.home |= dict.fromkeys(seeds, index)
        self.there[index] = {}
        return seeds

    def put(self, image) -> bool:
        """Whether this was the last image of its shard, which is then written."""
        index = self.home.pop(image.seed)
        there, seeds = self.there[index], self.store.batches()[index]
        there[image.seed] = image._replace(image=to_uint8(image.image[None])[0])
        if len(there) < len(seeds):
            return False
        ordered = [self.there[index][seed] for seed in seeds]
        del self.there[index]
        labels = None
        if ordered[0].class_idx is not None:
            labels = np.array([one.class_idx for one in ordered], dtype=np.int64)
        counts = {
            "evaluations": [one.evaluations for one in ordered],
            "ratios": [one.ratios for one in ordered],
            "latents": [one.latents for one in ordered],
        }
        self.store.write(index, np.stack([one.image for one in ordered]), labels, counts)
        return True
