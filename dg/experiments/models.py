"""The kinds of generative models that a setting may have: how each is trained, saved and what its
likelihood is."""

from collections.abc import Callable
from typing import NamedTuple

import numpy as np
import torch

import edm
from dg.data.datasets import ImageSet, to_float
from dg.evaluation.bounds import ddpm_bound, vae_bound
from dg.evaluation.likelihood import bits_per_dim
from dg.models.ddpm import save_ddpm
from dg.models.vae import elbo, save_vae
from dg.pretraining.ddpm import train_ddpm
from dg.pretraining.score import build_score_network, train_score_network
from dg.pretraining.vae import train_vae
from dg.runtime.randomness import step_generator
from guided_diffusion import training_losses


class Kind(NamedTuple):
    """What is done with one kind of models.

    train       (images, network, settings, conditional, device, **as of the training) ->
                (network, log)
    test_loss   (settings, network, images, their classes, generator) -> float
    save        (file, network)
    likelihood  (network, test images, their one-hot classes, guidance, setting) -> `Likelihood`
    loss        what its training loss is, for a figure
    measures    what its likelihood is: "probability flow" or "bound"
    """

    train: Callable
    test_loss: Callable
    save: Callable
    likelihood: Callable
    loss: str
    measures: str


def watched(loss: Callable, settings, images: ImageSet, device) -> Callable:
    """Observer of a training: the loss of a model on fixed test images, with the same noise every
    time.

    loss  `Kind.test_loss`
    """
    x = to_float(images.images).to(device)
    classes = torch.from_numpy(images.labels).to(device)

    @torch.no_grad()
    def observe(model):
        mode = model.training
        value = loss(settings, model.eval(), x, classes, step_generator(0, "test loss", 0))
        model.train(mode)
        return {"test_loss": value}

    return observe


def _train_edm(data, network, settings, conditional, device, **kwargs):
    if network.get("precond", "edm") == "edm" and "sigma_data" not in network:
        network = network | {"sigma_data": round(float(data.images.std()) / 127.5, 3)}
    net = build_score_network(data, network, settings.seed, conditional).to(device)
    return train_score_network(net, data, settings, **kwargs)


def _train_vae(data, network, settings, conditional, device, **kwargs):
    return train_vae(data, network, settings, device, **kwargs)


def _edm_loss(settings, net, x, classes, generator):
    one_hot = torch.eye(net.label_dim, device=x.device)[classes] if net.label_dim else None
    loss = edm.EDMLoss(settings.P_mean, settings.P_std, net.sigma_data)
    return loss(net, x, one_hot, generator=generator).mean().item()


def _ddpm_loss(settings, model, x, classes, generator):
    diffusion = model.diffusion
    t = torch.randint(diffusion.num_steps, [len(x)], generator=generator).to(x.device)
    noise = torch.randn(x.shape, generator=generator).to(x.device)
    kwargs = {"y": classes} if model.label_dim else {}
    return training_losses(diffusion, model.net, x, t, noise, kwargs).loss.mean().item()


def _vae_loss(settings, vae, x, classes, generator):
    noise = torch.randn(len(x), vae.latent_dim, generator=generator).to(x.device)
    nats = sum(part.mean().item() for part in elbo(vae, x, noise))
    return nats / (x[0].numel() * np.log(2))


def _edm_likelihood(net, images, one_hot, guidance, setting):
    steps, size = setting.nll_steps, setting.batch_size
    return bits_per_dim(net, images, one_hot, guidance, num_steps=steps, batch_size=size)


def _ddpm_likelihood(net, images, one_hot, guidance, setting):
    return ddpm_bound(net, images, one_hot, guidance, batch_size=setting.batch_size)


def _vae_likelihood(net, images, one_hot, guidance, setting):
    return vae_bound(net, images, batch_size=setting.batch_size)


_EDM = (_train_edm, _edm_loss, edm.save_network, _edm_likelihood)
_DDPM = (train_ddpm, _ddpm_loss, save_ddpm, _ddpm_likelihood)
_VAE = (_train_vae, _vae_loss, save_vae, _vae_likelihood)
KINDS = {
    "edm": Kind(*_EDM, loss="EDM loss", measures="probability flow"),
    "ddpm": Kind(*_DDPM, loss="noise MSE", measures="bound"),
    "vae": Kind(*_VAE, loss="−ELBO [bits/dim]", measures="bound"),
}
