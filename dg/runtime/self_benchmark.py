"""How fast a network is evaluated on this machine, by precision, threads and batches in work at
once: measured at the first use in at most two seconds, and kept in the cache folder.

A choice is kept because a race of every run would let noise decide: the same machine always gives
the same answer, until torch or the network's size changes.
"""

import hashlib
import json
import math
import time
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from functools import partial
from typing import NamedTuple

import torch

from dg.runtime.files import cache_folder, read_json, write_json
from dg.runtime.hardware import hardware_of
from dg.runtime.processes import cpu_threads
from dg.runtime.progress import unheard

FILE = "self-benchmark.json"  # in the cache folder
SECONDS = 2.0  # that all candidates may take together
ONE = 0.1  # seconds that a measured evaluation should take
MOST_AT_ONCE = 4  # batches in work, each of which takes its memory
MOST_WEIGHTS = 10**7  # of a network that computes several; larger ones take gigabytes for each
MOST_BATCH = 64
AHEAD = 1.1  # another precision must be so many times as fast as the first, or it is not worth it


class Speed(NamedTuple):
    """A candidate and what was measured."""

    precision: str
    threads: int  # of a batch
    at_once: int  # batches in work
    batch: int  # images of one
    rate: float  # evaluations of an image per second


class Chosen(NamedTuple):
    """How to compute, and what was measured for it (nothing where there was no choice)."""

    precision: str
    threads: int
    at_once: int
    speeds: list[Speed]

    def describe(self) -> dict:
        """Plain data for a manifest."""
        measured = [speed._asdict() for speed in self.speeds]
        return self._asdict() | {"speeds": measured}

    def table(self) -> list[str]:
        """Lines that show what was measured, the fastest first."""
        rows = sorted(self.speeds, key=lambda speed: -speed.rate)
        lines = [
            f"{row.precision:9} {row.threads} threads, {row.at_once} batches of {row.batch} at "
            f"once: {row.rate:,.0f} evaluations/s"
            for row in rows
        ]
        return lines or [f"nothing to choose: {self.precision}, {self.threads} threads"]


def chosen(
    net,
    device,
    precisions: tuple[str, ...],
    batches: int,
    threads: bool = True,
    anew: bool = False,
    notify: Callable[[str], None] = unheard,
) -> Chosen:
    """The precision, threads and batches at once that are fastest for an EDM network here.

    precisions  to choose from; another one than the first must be clearly faster
    batches     of the run; no more can be in work at once
    threads     False: their number is given, and only the precision is chosen
    anew        measure even if it was before

    The first use for a size of network measures, and keeps it in the cache folder; where that
    cannot be written, `notify` is told and every run measures.
    """
    cores = torch.get_num_threads()
    pairs = _pairs(cores) if threads and torch.device(device).type == "cpu" else [(cores, 1)]
    if sum(parameter.numel() for parameter in net.parameters()) > MOST_WEIGHTS:
        pairs = [pair for pair in pairs if pair[1] == 1]
    if len(precisions) * len(pairs) == 1:
        return Chosen(precisions[0], cores, 1, [])
    key, kept = _key(net, device, precisions, pairs), _kept()
    if key in kept and not anew:
        return pick(kept[key], batches)
    speeds = measure(net, device, precisions, pairs)
    try:
        write_json(cache_folder() / FILE, kept | {key: speeds})
    except (OSError, ValueError) as error:
        notify(f"the self-benchmark is not kept, and is made at every run: {error}")
    return pick(speeds, batches)


def pick(speeds: list[Speed], batches: int) -> Chosen:
    """The choice by what was measured. The precision does not depend on the number of batches, and
    so neither do images. Cores are left idle only by a single batch, which may be slower on all of
    them: other work at the time of the measurement does not let one core win for good."""

    def best(precision, rows):
        return max((row for row in rows if row.precision == precision), key=lambda row: row.rate)

    precision = speeds[0].precision
    fastest = max(speeds, key=lambda row: row.rate).precision
    if best(fastest, speeds).rate >= AHEAD * best(precision, speeds).rate:
        precision = fastest
    rows = [row for row in speeds if row.at_once <= max(batches, 1)]
    if batches > 1:
        busy = max(row.threads * row.at_once for row in rows)
        rows = [row for row in rows if row.threads * row.at_once == busy]
    row = best(precision, rows)
    return Chosen(precision, row.threads, row.at_once, speeds)


def measure(net, device, precisions, pairs) -> list[Speed]:
    """Speeds of the candidates as far as two seconds reach; of every precision with all threads on
    one batch in any case."""
    (cores, _), evaluate = pairs[0], partial(_evaluate, net, device)
    start = time.perf_counter()
    one = min(_seconds(partial(evaluate, precisions[0], 1)) for _ in range(2))
    batch = max(1, min(MOST_BATCH, 2 ** int(math.log2(max(ONE / one, 1)))))
    found = []
    for threads, at_once in pairs:
        for precision in precisions:
            expected = 2 * one * batch * cores / threads
            first = (threads, at_once) == pairs[0]
            if first or time.perf_counter() - start + expected < SECONDS:
                work = partial(evaluate, precision, batch)
                seconds = _in_parallel(work, threads, at_once, device)
                found.append(Speed(precision, threads, at_once, batch, at_once * batch / seconds))
    return found


def _in_parallel(work, threads: int, at_once: int, device) -> float:
    """Seconds of so many calls at once, the better of two rounds."""
    with cpu_threads(threads, device), ThreadPoolExecutor(at_once) as pool:
        calls = range(at_once)
        return min(_seconds(lambda: list(pool.map(lambda _: work(), calls))) for _ in range(2))


def _seconds(work) -> float:
    start = time.perf_counter()
    work()
    return max(time.perf_counter() - start, 1e-6)


def _pairs(cores: int) -> list[tuple[int, int]]:
    """(threads, batches at once) that keep all cores busy, or one."""
    shares = [at_once for at_once in (1, 2, 4) if at_once <= min(cores, MOST_AT_ONCE)]
    return [(cores // at_once, at_once) for at_once in shares] + ([(1, 1)] if cores > 1 else [])


@torch.no_grad()
def _evaluate(net, device, precision: str, batch: int) -> None:
    """Denoise noise of level 10, which half precisions compute."""
    shape = (batch, net.img_channels, net.img_resolution, net.img_resolution)
    labels = torch.zeros(batch, net.label_dim, device=device) if net.label_dim else None
    x, sigma = torch.full(shape, 10.0, device=device), torch.full([batch], 10.0, device=device)
    half = dict(dtype=getattr(torch, precision), enabled=precision != "float32")
    with torch.autocast(x.device.type, **half):
        net(x, sigma, labels)
    if torch.device(device).type == "cuda":
        torch.cuda.synchronize(device)


def _key(net, device, precisions, pairs) -> str:
    """By what speeds are kept: the machine, torch, and the network's size."""
    size = [type(net).__name__, net.img_resolution, net.img_channels, net.label_dim]
    size += [sorted(map(list, (tuple(p.shape) for p in net.parameters())))]
    machine = hardware_of(device) | {"torch": torch.__version__}
    text = json.dumps([machine, size, list(precisions), pairs])
    return hashlib.sha256(text.encode()).hexdigest()[:16]


def _kept() -> dict:
    """What was measured before; nothing where the file is missing or damaged."""
    try:
        path = cache_folder() / FILE
        found = read_json(path) if path.is_file() else {}
        return {key: [Speed(*row) for row in rows] for key, rows in found.items() if rows}
    except (OSError, ValueError, TypeError, AttributeError):
        return {}
