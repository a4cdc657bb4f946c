"""Rejection in every step (DiffRS; Na et al. 2024, "Diffusion rejection sampling"): a step is kept
with the probability that the log density ratio tells, else noise is added and it is made again.

A sample that could not be finished within `max_iter` evaluations begins anew. With the largest
ratios as constants and a budget of a single pass every rejection begins anew, and accepted images
follow the data exactly. The authors' settings (quantiles, one level back) are faster and keep a
bias: a rejected state that is noised again follows neither the model's law nor the data's.
"""

from collections.abc import Callable, Iterable, Iterator
from itertools import islice
from typing import NamedTuple

import torch
from torch import Tensor

from dg.discriminator import known_log_ratio
from dg.runtime.randomness import step_generator
from dg.samplers.constants import Path, RejectionSampling
from dg.sampling import as_model, first_draws
from edm.guidance import Guidance

MOST_LATENTS = 10_000  # of one seed, before it is given up
FREE, CHECK, STEP, LAST = range(4)  # what a sample waits for; LAST is the step without second order


class Drawn(NamedTuple):
    """A finished image and what it took, beginnings that were given up included.

    image        [C, H, W]  float64
    class_idx               None where there are no classes
    evaluations             of the score network
    ratios                  of the log ratio
    latents                 beginnings
    """

    seed: int
    image: Tensor
    class_idx: int | None
    evaluations: int
    ratios: int
    latents: int


@torch.no_grad()
def rejection_sampler(
    net,
    seeds: Iterable[int],
    log_ratio: Callable[[Tensor, Tensor, Tensor | None], Tensor],
    sampling: RejectionSampling,
    guidance: Guidance | None = None,
    class_idx: int | None = None,
    rows: int = 64,
    device="cpu",
) -> Iterator[Drawn]:
    """A stream: seeds in, finished images out, in the order in which they finish.

    net        denoiser(x, sigma, class_labels)
    log_ratio  log_ratio(x, sigma, class_labels) -> [N]
    sampling   with constants, see `warm_up`
    rows       how many images every call of a network holds. Samples of any level share a call, and
               seeds are taken in while there are any, so that no row is idle; at the end calls are
               filled up with repetitions.

    An image depends on its seed, the constants and `rows` alone, whatever else is in the stream.
    Its latent, class and churn come from the seed's own generator, as in `edm.edm_sampler`; uniform
    numbers and the noise of what is rejected come from a second one. So a ratio of 1 everywhere
    gives the images of `edm_sampler`: to the bit where `rows` is the number of seeds, so that calls
    hold the same images in the same order, else up to the rounding of other batches.
    """
    if sampling.constants is None:
        raise ValueError("rejection sampling needs constants; make them by a warm-up first")
    pool, waiting = _Pool(net, log_ratio, sampling, guidance, rows, device), iter(seeds)
    while True:
        for part in iter(lambda: list(islice(waiting, min(rows, len(pool.free())))), []):
            pool.admit(part, class_idx)
        if (finished := pool.work()) is None:
            return
        yield from finished


class _Pool:
    """Samples under way: rows of tensors, each with what it waits for.

    There are three kinds of work, so a full pool of three times `rows` samples has `rows` that wait
    for one of them.
    """

    def __init__(self, net, log_ratio, sampling, guidance, rows, device):
        self.model, self.log_ratio, self.sampling = as_model(net), log_ratio, sampling
        self.path, self.rows, self.device = Path(net, sampling, guidance, device), rows, device
        self.steps, size = sampling.num_steps, 3 * rows
        self.marginal, self.stepwise = (
            torch.tensor(values, dtype=torch.float64)
            for values in (sampling.constants.marginal, sampling.constants.stepwise)
        )
        shape = (size, self.model.img_channels, *2 * [self.model.img_resolution])
        self.x = torch.zeros(shape, dtype=torch.float64, device=device)
        self.labels = None
        self.waits, self.level, self.used, self.ticket, self.seed, self.class_idx = torch.zeros(
            6, size, dtype=torch.int64
        )
        self.spent = torch.zeros(size, 3, dtype=torch.int64)  # columns as the counts of `Drawn`
        self.stepped = torch.zeros(size, dtype=torch.bool)  # whether a step has led to its state
        self.last = torch.zeros(size, dtype=torch.float64)  # log ratio that was accepted last
        self.noise, self.choice = [None] * size, [None] * size  # generators
        self.tickets = 0

    def free(self) -> Tensor:
        return (self.waits == FREE).nonzero().flatten()

    def admit(self, seeds: list[int], class_idx: int | None) -> None:
        """New samples on free rows."""
        places = self.free()[: len(seeds)]
        how = (self.model, seeds, self.sampling, class_idx, self.device)
        rnd, latents, classes, one_hot = first_draws(*how)
        for place, seed, generator in zip(places.tolist(), seeds, rnd.generators, strict=True):
            self.noise[place] = generator
            self.choice[place] = step_generator(seed, "rejection", 0, self.device)
        self.seed[places] = torch.tensor(seeds)
        self.ticket[places] = self.tickets + torch.arange(len(seeds))
        self.tickets += len(seeds)
        self.spent[places], self.used[places] = 0, 0
        if one_hot is not None:
            if self.labels is None:
                self.labels = one_hot.new_zeros(len(self.waits), one_hot.shape[1])
            self.labels[places.to(self.device)] = one_hot
            self.class_idx[places] = classes.cpu()
        self._begin(places, latents)

    def work(self) -> list[Drawn] | None:
        """One call of a network for the samples that have waited longest; what is finished by it.
        None where nobody waits."""
        kind = int(torch.bincount(self.waits, minlength=4)[1:].argmax()) + 1
        places = (self.waits == kind).nonzero().flatten()
        if not len(places):
            return None
        places = places[self.ticket[places].argsort()][: self.rows]
        if kind == CHECK:
            accepted = self._check(places)
        else:
            self._step(places, second_order=kind == STEP)
            accepted = self._await_check(places)
        return self._go_on(accepted)

    def _filled(self, places: Tensor) -> Tensor:
        """As many places as a call has rows."""
        return places[torch.arange(self.rows) % len(places)]

    def _inputs(self, places: Tensor) -> tuple[Tensor, Tensor, Tensor | None]:
        """(x, level, labels) of a whole call."""
        filled = self._filled(places)
        there = filled.to(self.device)
        return (
            self.x[there],
            self.level[filled],
            None if self.labels is None else self.labels[there],
        )

    def _normal(self, generators: list, places: Tensor, dtype=torch.float64) -> Tensor:
        """Standard normal states, each from its own generator."""
        how = dict(dtype=dtype, device=self.device)
        shape = self.x.shape[1:]
        return torch.stack(
            [torch.randn(shape, generator=generators[place], **how) for place in places.tolist()]
        )

    def _uniform(self, places: Tensor) -> Tensor:
        """Uniform numbers [N] float64, each from its own generator."""
        how = dict(dtype=torch.float64, device=self.device)
        each = [torch.rand([], generator=self.choice[place], **how) for place in places.tolist()]
        return torch.stack(each).cpu()

    def _step(self, places: Tensor, second_order: bool) -> None:
        noise = None
        if self.path.churns:
            drawn = self._normal(self.noise, places)
            noise = drawn[torch.arange(self.rows, device=drawn.device) % len(places)]
        x, level, labels = self._inputs(places)
        there = self.path.step(x, level, labels, noise, second_order)
        self.x[places.to(self.device)] = there[: len(places)]
        self.level[places] += 1
        self.stepped[places] = True
        self.used[places] += 1 + second_order
        self.spent[places, 0] += 1 + second_order

    def _check(self, places: Tensor) -> Tensor:
        """The places whose states are accepted; the others go back, or begin anew."""
        x, level, labels = self._inputs(places)
        sigma = self.path.sigmas[level.to(self.device)]
        found = known_log_ratio(self.log_ratio, x, sigma, labels)[: len(places)].cpu()
        level = level[: len(places)]
        self.spent[places, 1] += 1
        after_step = self.stepwise[level] + self.last[places]
        bound = torch.where(self.stepped[places], after_step, self.marginal[level])
        accept = found >= bound + self._uniform(places).log()
        self.last[places[accept]] = found[accept]
        return torch.cat([places[accept], self._back(places[~accept])])

    def _back(self, places: Tensor) -> Tensor:
        """Rejected states one level up, or anew; the places that need no check there.

        A sample over its budget begins to count again. One that is rejected at the first level
        takes another latent and counts on.
        """
        level = self.level[places]
        needed = 2 * (self.steps - (level - 1)) - 1
        over = (level > 0) & (self.used[places] + needed > self.sampling.max_iter)
        self.used[places[over]] = 0
        anew = over | (level == 0)
        if len(fresh := places[anew]):
            self._begin(fresh, self._normal(self.choice, fresh, torch.float32))
        places, level = places[~anew], level[~anew]
        if not len(places):
            return self._await_check(fresh)
        there, sigmas = places.to(self.device), self.path.sigmas
        rise = (sigmas[level - 1] ** 2 - sigmas[level] ** 2).sqrt().reshape(-1, 1, 1, 1)
        self.x[there] += rise * self._normal(self.choice, places)
        self.level[places] -= 1
        self.stepped[places] = False
        return torch.cat([self._await_check(fresh), self._await_check(places)])

    def _begin(self, places: Tensor, latents: Tensor) -> None:
        self.spent[places, 2] += 1
        if (tried := self.spent[places, 2] > MOST_LATENTS).any():
            raise ValueError(
                f"seed {int(self.seed[places[tried]][0])}: no image was accepted from "
                f"{MOST_LATENTS} latents; lower the percentile of the constants or raise max_iter"
            )
        self.x[places.to(self.device)] = latents.to(torch.float64) * self.path.sigmas[0]
        self.level[places], self.last[places] = 0, 0.0
        self.stepped[places] = False
        self.waits[places] = CHECK if self.path.checked[0] else STEP if self.steps > 1 else LAST

    def _await_check(self, places: Tensor) -> Tensor:
        """Those of the places whose level is not checked, which are accepted; the others wait."""
        checked = self.path.checked[self.level[places]]
        self.waits[places[checked]] = CHECK
        return places[~checked]

    def _go_on(self, places: Tensor) -> list[Drawn]:
        """Accepted states wait for their next step; finished ones leave."""
        level = self.level[places]
        self.waits[places] = torch.where(level < self.steps - 1, STEP, LAST)
        finished = places[level == self.steps]
        self.waits[finished] = FREE
        return [
            Drawn(
                int(self.seed[place]),
                self.x[place].clone(),
                None if self.labels is None else int(self.class_idx[place]),
                *self.spent[place].tolist(),
            )
            for place in finished.tolist()
        ]
