"""Bits per dimension of any network that has them: the estimator for each kind of network, over
many images."""

from collections.abc import Callable
from dataclasses import dataclass
from functools import partial

import torch
from torch import Tensor, nn

from dg.data.images import ImageSet
from dg.evaluation.bounds import ddpm_bound, joined, vae_bound
from dg.evaluation.likelihood import Likelihood, bits_per_dim
from dg.models.ddpm import DDPM
from dg.models.dit import LatentDiffusion
from dg.models.vae import VAE
from dg.runtime.processes import SINGLE_PROCESS, Ranks
from dg.runtime.progress import Progress, silent
from edm.guidance import Guidance


@dataclass(frozen=True)
class LikelihoodEstimator:
    """How the likelihood of images under a network is estimated.

    net         the network
    model       its kind: "score network", "DDPM" or "VAE"
    kind        the kind of estimate, in words
    num_steps   of the flow or chain; 1 for a VAE
    likelihood  (images, class_labels, guidance, seeds=, batch_size=) -> Likelihood
    """

    net: nn.Module
    model: str
    kind: str
    num_steps: int
    likelihood: Callable[..., Likelihood]

    def __call__(
        self,
        images: ImageSet,
        guidance: Guidance | None = None,
        *,
        batch_size: int = 64,
        ranks: Ranks = SINGLE_PROCESS,
        progress: Progress = silent,
    ) -> Likelihood | None:
        """The likelihood of a set of images, bits/dim of each; None at all processes but the first.

        Each image has its place in the set as its seed, so batches and processes change nothing.
        ValueError where images or labels do not fit the network.
        """
        net = self.net
        if (images.resolution, images.channels) != (net.img_resolution, net.img_channels):
            raise ValueError(
                f"{images.name}: images of {images.resolution} pixels and {images.channels} "
                f"channels, but the network takes {net.img_resolution} pixels and "
                f"{net.img_channels} channels; give images of that size"
            )
        starts = range(0, len(images), batch_size)
        batches = [range(start, min(start + batch_size, len(images))) for start in starts]
        found = []
        for batch in progress(ranks.share(batches), desc="likelihood", unit="batch"):
            part = slice(batch.start, batch.stop)
            labels = self._one_hot(images, part)
            found.append(
                self.likelihood(
                    images.images[part], labels, guidance, seeds=list(batch), batch_size=batch_size
                )
            )
        gathered = ranks.gather(found)
        return None if gathered is None else joined([part for rank in gathered for part in rank])

    def _one_hot(self, images: ImageSet, part: slice) -> Tensor | None:
        """Labels of the images [n, label_dim] for a conditional network, None for another."""
        num_classes = self.net.label_dim
        if not num_classes:
            return None
        if images.labels is None or images.num_classes > num_classes:
            raise ValueError(
                f"{images.name}: the labels do not fit a network of {num_classes} classes; give "
                "images with labels of these classes"
            )
        device = next(self.net.parameters()).device
        return torch.eye(num_classes, device=device)[
            torch.from_numpy(images.labels[part]).to(device)
        ]


def likelihood_estimator(
    net: nn.Module,
    *,
    num_steps: int | None = None,
    solver: str = "heun",
    num_probes: int = 1,
    importance_samples: int | None = None,
) -> LikelihoodEstimator:
    """Return the estimator for a network's kind. It ignores settings that do not apply to the kind.

    num_steps           of the flow (None: 128), or of a DDPM's chain (None: all of its own)
    solver, num_probes  of the flow, see `bits_per_dim`
    importance_samples  of a VAE: the bound by so many samples in place of the ELBO, see `vae_bound`

    ValueError for a model of latents, whose likelihood of images is not known.
    """
    if isinstance(net, LatentDiffusion):
        raise ValueError(
            "a model of latents gives no likelihood of images; give a score network, DDPM or VAE"
        )
    if isinstance(net, DDPM):
        steps = num_steps or net.diffusion.num_steps
        bound = partial(ddpm_bound, net, num_steps=num_steps)
        return LikelihoodEstimator(net, "DDPM", "variational bound", steps, bound)
    if isinstance(net, VAE):
        kind = "negative ELBO"
        if importance_samples:
            kind = f"importance-weighted bound, K = {importance_samples}"

        def bound(images, class_labels, guidance, **batch):
            return vae_bound(net, images, num_samples=importance_samples, **batch)

        return LikelihoodEstimator(net, "VAE", kind, 1, bound)
    num_steps = num_steps or 128
    flow = partial(bits_per_dim, net, num_probes=num_probes, num_steps=num_steps, solver=solver)
    kind = f"probability flow by {solver}"
    return LikelihoodEstimator(net, "score network", kind, num_steps, flow)
