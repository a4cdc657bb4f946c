"""Bits per dimension of DDPMs and VAEs, on one scale with the probability flow of
`dg.evaluation.likelihood`.

All values are -log2 P(image) / (C H W) of the 8-bit values, without padding. Lower is better, and a
uniform distribution has 8. The estimates of P differ:

- DDPM: an upper bound. The variational bound of the sampled chain, with the discretised Gaussian
  decoder (Ho et al. 2020, Eqs. 5 and 13), estimated without bias from one draw per step.
- VAE: an upper bound. The negative ELBO with discretised logistic pixels, or the tighter one of
  Burda et al. 2016.
- EDM: no variational bound. The density of the probability flow itself, of uniformly dequantised
  images: an estimate by random probes and finitely many steps. Its mean over the dequantisation is
  above the value of the rounded images (Theis et al. 2016), but the errors of probes and solver go
  both ways.

So a bound above another model's value may be loose; the model need not be worse.
"""

import math
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass

import numpy as np
import torch
from torch import Tensor

from dg.data.datasets import to_float
from dg.evaluation.likelihood import Likelihood
from dg.models.ddpm import DDPM
from dg.models.discrete_sampling import as_cond_fn
from dg.models.vae import VAE, elbo, importance_bound
from edm.guidance import Guidance
from edm.random import StackedRandomGenerator
from guided_diffusion import GaussianDiffusion, vlb
from guided_diffusion.losses import bound_term, prior_term


@dataclass(frozen=True)
class Bound(Likelihood):
    """Upper bounds on the negative log likelihood of N images."""


def ddpm_bound(
    model: DDPM,
    images,
    class_labels: Tensor | None = None,
    guidance: Guidance | None = None,
    *,
    seeds=None,
    num_steps: int | None = None,
    num_terms: int | None = None,
    batch_size: int = 64,
) -> Bound:
    """The variational bound of ancestral sampling; terms "prior" (L_T), "steps" (L_1 to L_{T-1})
    and "decoder" (L_0).

    images        [N, H, W, C]  uint8 array or tensor
    class_labels  [N, K]        one-hot, for a conditional network
    guidance                    steers the chain as while sampling; a fixed small variance leaves
                                L_0 unguided
    seeds         [N]           one per image, for its noise; None: 0..N-1
    num_steps                   of the chain; None: all, and fewer give the bound of another,
                                coarser chain
    num_terms                   of L_1 to L_{T-1}, drawn for every image, in place of all: an
                                estimate without bias, whose error is in the standard error
    batch_size                  images at once; the result does not depend on it

    One evaluation of the network per step; of drawn terms one each, and one for L_0. ValueError of
    one line for images that do not fit.
    """
    if model.label_dim and (
        class_labels is None or list(class_labels.shape) != [len(images), model.label_dim]
    ):
        raise ValueError(
            f"the network is conditional; give one-hot class_labels [{len(images)}, "
            f"{model.label_dim}]"
        )
    if num_terms is not None and num_terms < 1:
        raise ValueError(f"{num_terms} terms of the bound; give at least 1")
    diffusion = model.respaced(num_steps and str(num_steps))
    device = next(model.parameters()).device

    def terms(x, rnd, part):
        labels = None if class_labels is None else class_labels[part].to(device)
        process = (
            diffusion
            if guidance is None
            else Guided(diffusion, as_cond_fn(guidance, diffusion, labels, network=model.net))
        )
        kwargs = {} if labels is None else {"model_kwargs": {"y": labels.argmax(dim=1)}}
        x = x.to(device)
        if num_terms is not None:
            return _some_terms(process, model.net, x, rnd, num_terms, **kwargs)
        bound = vlb(process, model.net, x, lambda x: rnd.randn(x.shape).to(x.device), **kwargs)
        return {
            "prior": bound.prior,
            "steps": bound.terms[:, 1:].sum(dim=1),
            "decoder": bound.terms[:, 0],
        }

    evaluations = diffusion.num_steps if num_terms is None else num_terms + 1
    return _collected(model, images, seeds, batch_size, terms, evaluations)


@torch.no_grad()
def _some_terms(diffusion, net, x, rnd, number: int, model_kwargs=None) -> dict[str, Tensor]:
    """The parts of the bound in bits/dim, [N] each: prior and decoder as they are, the sum of L_1
    to L_{T-1} from so many of them."""

    def term(t):
        noisy = diffusion.q_sample(x, t, rnd.randn(x.shape).to(x.device))
        step = diffusion.p_mean_variance(net, noisy, t, True, model_kwargs=model_kwargs)
        return bound_term(diffusion, step, x, noisy, t)

    decoder = term(torch.zeros(len(x), dtype=torch.int64, device=x.device))
    offsets = rnd.randint(2**53, size=[len(x), 1]).to(torch.float64) / 2**53
    steps, weights = (values.to(x.device) for values in drawn_steps(diffusion, offsets, number))
    drawn = [
        term(t) * weight.to(x)
        for t, weight in zip(steps.unbind(dim=1), weights.unbind(dim=1), strict=True)
    ]
    return {"prior": prior_term(diffusion, x), "steps": sum(drawn), "decoder": decoder}


def drawn_steps(diffusion: GaussianDiffusion, offsets: Tensor, number: int):
    """(steps of 1 to T - 1, int64 [N, number]; the weights of their terms in the sum of all).

    offsets  [N, 1]  uniform on [0, 1)

    The draws lie at even distances on the scale of the log signal-to-noise ratio, on which the
    terms vary least: L_t is about half the fall of that ratio times the error of the noise.
    """
    if diffusion.num_steps < 2:
        raise ValueError("a chain of one step has a decoder alone; leave num_terms out")
    alpha_bar = torch.as_tensor(diffusion.schedule.alphas_cumprod, dtype=torch.float64)
    falls = -torch.log(alpha_bar / (1 - alpha_bar)).diff()
    probabilities = falls / falls.sum()
    places = (torch.arange(number) + offsets) / number  # [N, number]
    index = torch.searchsorted(probabilities.cumsum(0), places, right=True)
    index = index.clamp(max=len(falls) - 1)  # rounding may leave the last sum below 1
    return index + 1, 1 / (number * probabilities[index])


class Guided(GaussianDiffusion):
    """A process whose reverse steps are moved by a `cond_fn` (Dhariwal & Nichol 2021, algorithm
    1)."""

    def __init__(self, diffusion: GaussianDiffusion, cond_fn: Callable):
        super().__init__(diffusion.schedule, diffusion.mean, diffusion.variance)
        self.cond_fn = cond_fn

    def p_mean_variance(self, model, x, t, clip_denoised=True, denoised_fn=None, model_kwargs=None):
        step = super().p_mean_variance(model, x, t, clip_denoised, denoised_fn, model_kwargs)
        return self.condition_mean(self.cond_fn, step, x, t, model_kwargs)


@torch.no_grad()
def vae_bound(
    model: VAE, images, *, seeds=None, num_samples: int | None = None, batch_size: int = 64
) -> Bound:
    """The negative ELBO, with terms "reconstruction" and "kl"; or the bound of Burda et al. 2016, a
    single term.

    num_samples  K draws of the importance-weighted bound; None: the ELBO, whose divergence is in
                 closed form
    the rest     as of `ddpm_bound`
    """
    if num_samples is not None and num_samples < 1:
        raise ValueError(f"{num_samples} importance samples; give at least 1")
    device, nats = (
        next(model.parameters()).device,
        model.img_channels * model.img_resolution**2 * math.log(2),
    )

    def terms(x, rnd, part):
        noise = rnd.randn([len(x), num_samples or 1, model.latent_dim]).to(device)
        if num_samples:
            return {"importance": importance_bound(model, x.to(device), noise) / nats}
        reconstruction, divergence = elbo(model, x.to(device), noise[:, 0])
        return {"reconstruction": reconstruction / nats, "kl": divergence / nats}

    return _collected(model, images, seeds, batch_size, terms, num_samples or 1)


def joined(parts: Sequence[Likelihood]) -> Likelihood:
    """Join bounds of one kind on several sets of images, in their order."""
    return type(parts[0])(
        np.concatenate([part.bits_per_dim for part in parts]),
        np.concatenate([part.num_evaluations for part in parts]),
        {name: np.concatenate([part.terms[name] for part in parts]) for name in parts[0].terms},
    )


def _collected(model, images, seeds, batch_size, terms, num_evaluations) -> Bound:
    """The bound from `terms(x float32 [n, C, H, W], generators, place among the images)`, batch by
    batch."""
    parts = [terms(*batch) for batch in _batches(model, images, seeds, batch_size)]
    joined = {
        name: torch.cat([part[name] for part in parts]).to("cpu", torch.float64).numpy()
        for name in parts[0]
    }
    total = sum(joined.values())
    return Bound(total, np.full(len(total), num_evaluations), joined)


def _batches(
    model, images, seeds, batch_size
) -> Iterator[tuple[Tensor, StackedRandomGenerator, slice]]:
    images = torch.as_tensor(images)
    expected = [model.img_resolution, model.img_resolution, model.img_channels]
    if images.dtype != torch.uint8 or list(images.shape[1:]) != expected or not len(images):
        raise ValueError(
            f"{images.dtype} {list(images.shape)} does not fit the network; give uint8 [N, "
            f"{', '.join(map(str, expected))}], at least one image"
        )
    seeds = range(len(images)) if seeds is None else seeds
    if len(seeds) != len(images) or batch_size < 1:
        raise ValueError(
            f"{len(seeds)} seeds for {len(images)} images in batches of {batch_size}; give one "
            "seed each, and a "
            "batch of at least 1"
        )
    for start in range(0, len(images), batch_size):
        part = slice(start, start + batch_size)
        # the same numbers on every device
        yield (
            to_float(images[part]),
            StackedRandomGenerator("cpu", seeds[part]),
            part,
        )
