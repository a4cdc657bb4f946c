"""How far Restart and rejection sampling are from the authors' own programs, run as they are on a small score network.

    python -m benchmarks.original_samplers --restart-repo ../diffusion_restart_sampling --diffrs-repo ../DiffRS

The arguments are checkouts of Newbeeer/diffusion_restart_sampling (Xu et al. 2023) and of
aailabkaist/DiffRS (Na et al. 2024). The score network is the one of the preset digits with random
weights. Restart draws the same seeds on both sides. DiffRS draws one image after the other; every
log ratio, random number and state of its program is recorded, and each of its decisions is made
again from the record. Its log ratio is a small classifier with random weights.
"""

import argparse
import contextlib
import importlib.util
import io
import json
import math
import sys
import tempfile
from collections.abc import Iterator
from dataclasses import dataclass
from itertools import pairwise
from pathlib import Path
from types import ModuleType, SimpleNamespace
from unittest import mock

import torch
from torch import Tensor

import edm
from benchmarks.networks import build_score_network, random_weights
from benchmarks.original import stand_in
from benchmarks.timing import finish
from dg.samplers.constants import Constants, RejectionSampling, _quantiles
from dg.samplers.rejection import _Pool
from dg.samplers.restart import restart_sampler
from guided_diffusion import create_classifier

COLUMNS = ("case", "quantity", "measured")
RESTARTS = {  # name: settings of the sampler
    "CIFAR-10, 18 steps": dict(num_steps=18, restart={"0": [3, 2, 0.14, 0.30]}),
    "CIFAR-10 of the README": dict(
        num_steps=18, restart={"0": [3, 2, 0.06, 0.30]}, S_min=0.01, S_max=1, S_noise=1.003
    ),
    "ImageNet-64, 36 steps": dict(
        num_steps=36,
        restart={
            "0": [4, 1, 19.35, 40.79],
            "1": [4, 1, 1.09, 1.92],
            "2": [4, 5, 0.59, 1.09],
            "3": [4, 5, 0.30, 0.59],
            "4": [6, 6, 0.06, 0.30],
        },
        S_min=0.01,
        S_max=1,
        S_noise=1.003,
    ),
}
REJECTION = dict(num_steps=18, rej_percentile=0.75)
BUDGETS = (105, 75)  # max_iter of the README's command, and one that is met more often
PASSES = 64  # of the warm-up, of one image each


def loaded(script: Path) -> ModuleType:
    """A script as a module. What stands beside it is found first, and forgotten afterwards: some of
    it bears names of this project's packages."""

    def beside():
        names = {path.stem for path in script.parent.iterdir()}
        return [name for name in sys.modules if name.split(".")[0] in names]

    ours = {name: sys.modules.pop(name) for name in beside()}
    spec = importlib.util.spec_from_file_location(f"original_{script.stem}", script)
    module = importlib.util.module_from_spec(spec)
    with mock.patch.object(sys, "path", [str(script.parent), *sys.path]):
        spec.loader.exec_module(module)
    for name in beside():
        del sys.modules[name]
    sys.modules.update(ours)
    return module


# ---- Restart


def restart_rows(repo: Path, net, seeds: range) -> list[dict]:
    script, rows = loaded(repo / "benchmarks" / "generate_restart.py"), []
    for name, settings in RESTARTS.items():
        how = dict(S_noise=1, S_max=math.inf, restart_gamma=0.05) | settings

        def drawn(sampler, **options):
            rnd = edm.StackedRandomGenerator("cpu", seeds)
            latents = rnd.randn([len(seeds), net.img_channels, *2 * [net.img_resolution]])
            return sampler(net, latents, randn_like=rnd.randn_like, **options)

        ours = drawn(restart_sampler, **how)
        how["restart_info"] = json.dumps(how.pop("restart"))
        with contextlib.redirect_stdout(io.StringIO()), torch.no_grad():
            theirs = drawn(script.restart_sampler, **how)
        case = f"Restart, {name}, {len(seeds)} seeds"
        rows += [
            dict(case=case, quantity="images, abs", measured=float((ours - theirs).abs().max())),
            dict(case=case, quantity="largest value", measured=float(theirs.abs().max())),
        ]
    return rows


# ---- DiffRS


@dataclass
class Check:
    """A decision of their program and all that it was made from."""

    turn: int  # steps of the network before it, over all images
    level: int
    x: Tensor  # [C, H, W]
    ratio: float
    last: float  # log ratio that was accepted last
    stepped: bool  # whether a step has led to the state
    used: int  # evaluations
    uniform: float = math.nan
    accepted: bool = True
    noise: Tensor | None = None  # what a rejected state took


class Record:
    """What a run of their program asks and draws, one image after the other."""

    def __init__(self, sigmas: Tensor):
        self.sigmas, self.checks, self.over = sigmas.tolist(), [], set()
        self.turn, self.used, self.last, self.event = 0, 0, 0.0, "latent"
        self.generator = torch.Generator().manual_seed(0)

    def ratio(self, x: Tensor, sigma: Tensor, found: Tensor) -> None:
        level, value = self.sigmas.index(float(sigma)), float(found)
        if self.checks and self.checks[-1].accepted:
            self.last = self.checks[-1].ratio
        stepped = self.event == "step"
        self.checks.append(
            Check(self.turn, level, x[0].clone(), value, self.last, stepped, self.used)
        )
        self.event = "check"

    def uniform(self, like: Tensor) -> Tensor:
        drawn = torch.rand(like.shape, dtype=like.dtype, generator=self.generator)
        self.checks[-1].uniform = float(drawn)
        return drawn

    def noise(self, like: Tensor) -> Tensor:
        """Of a rejected state, or of a new beginning after the budget."""
        drawn = torch.randn(like.shape, dtype=like.dtype, generator=self.generator)
        if self.event == "check":
            self.checks[-1].accepted, self.checks[-1].noise = False, drawn[0]
        self.event = "noise"
        return drawn

    def latent(self, like: Tensor) -> Tensor:
        """Of the next image."""
        self.used, self.event = 0, "latent"
        return torch.randn(like.shape, dtype=like.dtype, generator=self.generator)

    def step(self) -> None:
        self.turn += self.event != "step"
        self.used, self.event = self.used + 1, "step"

    def begin(self) -> None:
        """The warm-up is over."""
        self.warmup = torch.tensor([check.ratio for check in self.checks]).view(PASSES, -1).T
        self.checks = []
        self.used, self.last, self.event = 0, 0.0, "latent"

    def restart(self) -> None:
        self.over.add(self.turn)
        self.used, self.event = 0, "restart"


def recorded(repo: Path, net, discriminator, images: int, **budget) -> tuple[Record, Constants]:
    """The record of a run that draws so many images, and the constants of its warm-up."""
    stand_in()
    sys.modules["tensorflow"].io = SimpleNamespace(gfile=SimpleNamespace(GFile=open))
    script, told = loaded(repo / "generate_diffrs.py"), []
    library = script.classifier_lib
    record = Record(_Pool(net, None, _sampling(), None, 1, "cpu").path.sigmas)
    ask = library.get_grad_log_ratio

    def ratio(discriminator, vpsde, x, sigma, *rest, **options):
        found = ask(discriminator, vpsde, x, sigma, *rest, **options)
        record.ratio(x, sigma, found)
        return found

    class Bar:  # of the samples that begin anew
        def __init__(self, desc):
            record.begin()

        def update(self, count):
            record.restart()

    class Watched:
        def __getattr__(self, name):
            return getattr(net, name)

        def __call__(self, *args):
            record.step()
            return net(*args)

    settings = (
        REJECTION
        | budget
        | dict(backsteps=1, batch_size=1, iter_warmup=PASSES, adaptive_pickle="None")
    )
    settings |= dict(S_min=math.inf)  # no churn, whose noise is drawn even where it is of size 0
    latents = torch.randn(
        1, net.img_channels, *2 * [net.img_resolution], generator=record.generator
    )
    with contextlib.ExitStack() as stack:
        stack.enter_context(torch.no_grad())
        for owner, name, stand in (
            (library, "get_grad_log_ratio", ratio),
            (torch, "rand_like", record.uniform),
            (torch, "randn_like", record.latent),
            (script, "tqdm", Bar),
        ):
            stack.enter_context(mock.patch.object(owner, name, stand))
        stack.enter_context(mock.patch.object(script, "print", told.append, create=True))
        folder = stack.enter_context(tempfile.TemporaryDirectory())
        first = (0, 0.01, 1.0, library.vpsde(), settings.pop("rej_percentile"), discriminator)
        how = dict(randn_like=record.noise, num_samples=images - 1, outdir=folder, **settings)
        script.diffrs_sampler(*first, Watched(), latents, **how)
    return record, Constants(told[0].tolist(), told[1].tolist())


def _sampling(**changes) -> RejectionSampling:
    """Checked at all times, as their program does."""
    constants = Constants(*2 * [[0] * (REJECTION["num_steps"] + 1)])
    return RejectionSampling(**REJECTION | dict(time_min=0.0, constants=constants) | changes)


def decided(net, checks: list[Check], **changes) -> tuple[Tensor, ...]:
    """What is decided here from the record: whether it is accepted, whether the budget begins it
    anew, the state and the count of evaluations afterwards.

    changes  constants and max_iter
    """
    places = torch.arange(len(checks))
    pool = _Pool(net, lambda *_: ratios, _sampling(**changes), None, len(checks), "cpu")
    ratios, uniform = (
        torch.tensor([getattr(check, name) for check in checks], dtype=torch.float64)
        for name in ("ratio", "uniform")
    )
    noise = [check.x if check.noise is None else check.noise for check in checks]
    for name in ("level", "last", "stepped", "used"):
        values = [getattr(check, name) for check in checks]
        getattr(pool, name)[places] = torch.tensor(values).to(getattr(pool, name))
    pool.x[places] = torch.stack([check.x for check in checks])
    pool._uniform = lambda chosen: uniform[chosen]
    pool._normal = lambda generators, chosen, dtype=None: torch.stack(
        [noise[place] for place in chosen.tolist()]
    )
    levels, accepted = pool.level[places].clone(), torch.zeros(len(checks), dtype=torch.bool)
    accepted[pool._check(places)] = True
    begun = pool.spent[places, 2] == 1
    return accepted, begun & (levels > 0), pool.x[places], pool.used[places]


def rejection_rows(repo: Path, net, discriminator, images: int, budget: int) -> Iterator[dict]:
    record, constants = recorded(repo, net, discriminator, images, max_iter=budget)
    case, checks = f"DiffRS, {images} images, max_iter {budget}", record.checks
    accepted, over, after, used = decided(net, checks, constants=constants, max_iter=budget)
    here = _quantiles(record.warmup, torch.ones(len(record.warmup)), REJECTION["rej_percentile"])
    # Nothing is held against the marginal constant of noise level 0. Their program stores views of
    # log ratios there, which the next image's first ones overwrite.
    pairs = ((here.marginal[:-1], constants.marginal[:-1]), (here.stepwise, constants.stepwise))
    off = max((torch.tensor(a) - torch.tensor(b)).abs().max() for a, b in pairs)

    def row(quantity, measured):
        return dict(case=case, quantity=quantity, measured=measured)

    yield row("constants of the warm-up, abs", float(off))
    same = sum(int(ours) == check.accepted for ours, check in zip(accepted, checks, strict=True))
    yield row("equal decisions", f"{same} of {len(checks)}")
    rejected = [check for check in checks if not check.accepted]
    yield row("rejections among them", len(rejected))
    states = [
        (after[index] - there.x).abs().max() / there.x.abs().max()
        for index, (check, there) in enumerate(pairwise(checks))
        if not check.accepted and check.turn == there.turn and not over[index]
        if check.turn not in record.over
    ]
    yield row(f"states after {len(states)} rejections, rel", float(max(states)))
    turns = {check.turn for check in rejected if check.level > 0}
    ours = {check.turn for check, is_over in zip(checks, over, strict=True) if is_over}
    yield row(
        "equal decisions of the budget", f"{len(turns - (ours ^ record.over))} of {len(turns)}"
    )
    yield row("new beginnings among them", len(record.over))
    first = [index for index, check in enumerate(checks) if not check.accepted and not check.level]
    kept = sum(int(used[index]) == checks[index].used for index in first)
    yield row("latents drawn anew, evaluations counted on", f"{kept} of {len(first)}")


def main():
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument(
        "--restart-repo", type=Path, help="checkout of Newbeeer/diffusion_restart_sampling"
    )
    parser.add_argument("--diffrs-repo", type=Path, help="checkout of aailabkaist/DiffRS")
    parser.add_argument("--seeds", type=int, default=16, help="images of Restart")
    parser.add_argument("--images", type=int, default=100, help="images of DiffRS")
    parser.add_argument("--out", help="also write the rows as JSON")
    options = parser.parse_args()
    torch.manual_seed(0)  # for the biases of the networks
    net, rows = build_score_network("digits"), []
    if options.restart_repo:
        rows += restart_rows(options.restart_repo, net, range(options.seeds))
    if options.diffrs_repo:
        small = dict(image_size=8, in_channels=1, classifier_width=64, classifier_depth=1)
        head = random_weights(create_classifier(**small, out_channels=1), seed=1, gain=1.0).eval()

        def discriminator(x, timesteps, condition):
            return 10 * head(x, timesteps).view(-1)

        for budget in BUDGETS:
            how = (options.diffrs_repo, net, discriminator, options.images, budget)
            rows += rejection_rows(*how)
    finish("benchmarks.original_samplers", rows, COLUMNS, "cpu", options.out)


if __name__ == "__main__":
    main()
