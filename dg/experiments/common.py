"""What experiments share: sets of samples, repeated measurements, comparisons on equal seeds."""

import json
from contextlib import contextmanager

import numpy as np
import torch

from dg.data.sample_store import SampleStore
from dg.evaluation.metrics import frechet_distance, statistics
from dg.evaluation.uncertainty import summarise_repeats
from dg.sampling import Sampling, describe, generate
from dg.training import best_entry


def sample(
    path,
    net,
    sampling: Sampling,
    first_seed: int,
    num_images: int,
    batch_size: int,
    guidance=None,
    device="cpu",
    described: dict | None = None,
    **kwargs,
) -> None:
    """Fill the store at `path` with the images of `num_images` consecutive seeds; `kwargs` as for
    `generate`.

    described  of all this, where `describe` has been asked before: it hashes all networks
    """
    seeds = list(range(first_seed, first_seed + num_images))
    store = SampleStore(path, described or describe(net, sampling, guidance), seeds, batch_size)
    generate(net, store, sampling, guidance, device=device, **kwargs)


def distance(features, reference) -> float:
    """Fréchet distance of features [N, D] to features [M, D]."""
    return frechet_distance(*statistics(features), *statistics(reference))


def summarise(rows: list[dict]) -> dict:
    """Mean, sd (n - 1), n, minimum and values of every metric over repetitions."""
    return {name: summarise_repeats([row[name] for row in rows]) for name in rows[0]}


def compare(guided: dict, unguided: dict) -> dict:
    """Metric by metric on the same seeds: ratio of the means, and mean and sd of the paired
    differences."""
    table = {}
    for name in guided:
        after, before = (np.array(metrics[name]["values"]) for metrics in (guided, unguided))
        sd = float((after - before).std(ddof=1)) if len(after) > 1 else 0.0
        ratio = float(after.mean() / before.mean()) if before.mean() else float("nan")
        table[name] = {"ratio": ratio, "difference": float((after - before).mean()), "sd": sd}
    return table


@contextmanager
def one_thread(device):
    """One CPU thread within, where a CPU computes."""
    before = torch.get_num_threads()
    if torch.device(device).type == "cpu":
        torch.set_num_threads(1)
    try:
        yield
    finally:
        torch.set_num_threads(before)


def training_log(folder) -> dict:
    """What the report shows of a discriminator's training."""
    losses = "epoch step train_loss valid_loss"
    keys = f"{losses} train_accuracy valid_accuracy valid_auc valid_ece".split()
    entries = [json.loads(line) for line in (folder / "log.jsonl").read_text().splitlines()]
    return {
        "log": [{key: entry[key] for key in keys if key in entry} for entry in entries],
        "best_epoch": best_entry(entries)["epoch"],
    }
