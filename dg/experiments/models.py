"""The kinds of generative models that a setting may have: how each is trained, saved and what its
likelihood is."""

from collections.abc import Callable
from dataclasses import dataclass

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


@dataclass(frozen=True)
class Kind:
    """What is done with one kind of models.

    train       (images, setting, model, device, state file, progress, watch) -> (network, log)
    save        (file, network)
    likelihood  (network, test images, their one-hot classes, guidance, setting) -> `Likelihood`
    loss        what its training loss is, for a figure
    measures    what its likelihood is: "probability flow" or "bound"
    """

    train: Callable
    save: Callable
    likelihood: Callable
    loss: str
    measures: str


def watched(loss: Callable, images: ImageSet | None, device) -> Callable | None:
    """Observer of a training: the loss of a model on fixed test images, with the same noise every
    time.

    loss  (model, x, classes, generator) -> float
    """
    if images is None:
        return None
    x = to_float(images.images).to(device)
    classes = torch.from_numpy(images.labels).to(device)

    @torch.no_grad()
    def observe(model):
        mode = model.training
        value = loss(model.eval(), x, classes, step_generator(0, "test loss", 0))
        model.train(mode)
        return {"test_loss": value}

    return observe


def _train_edm(data, setting, model, device, state, progress, watch):
    network, settings = model.training
    if network.get("precond", "edm") == "edm" and "sigma_data" not in network:
        network = network | {"sigma_data": round(float(data.images.std()) / 127.5, 3)}
    net = build_score_network(data, network, settings.seed, setting.conditional).to(device)

    def loss(average, x, classes, generator):
        one_hot = (
            torch.eye(average.label_dim, device=device)[classes] if average.label_dim else None
        )
        edm_loss = edm.EDMLoss(settings.P_mean, settings.P_std, average.sigma_data)
        return edm_loss(average, x, one_hot, generator=generator).mean().item()

    observe = watched(loss, watch, device)
    return train_score_network(net, data, settings, state, progress, observe=observe)


def _train_ddpm(data, setting, model, device, state, progress, watch):
    network, settings = model.training

    def loss(average, x, classes, generator):
        diffusion = average.diffusion
        t = torch.randint(diffusion.num_steps, [len(x)], generator=generator).to(device)
        noise = torch.randn(x.shape, generator=generator).to(device)
        kwargs = {"y": classes} if average.label_dim else {}
        return training_losses(diffusion, average.net, x, t, noise, kwargs).loss.mean().item()

    observe = watched(loss, watch, device)
    return train_ddpm(
        data, network, settings, setting.conditional, device, state, progress, observe=observe
    )


def _train_vae(data, setting, model, device, state, progress, watch):
    network, settings = model.training

    def loss(vae, x, classes, generator):
        noise = torch.randn(len(x), vae.latent_dim, generator=generator).to(device)
        nats = sum(part.mean().item() for part in elbo(vae, x, noise))
        return nats / (x[0].numel() * np.log(2))

    observe = watched(loss, watch, device)
    return train_vae(data, network, settings, device, state, progress, observe=observe)


def _edm_likelihood(net, images, one_hot, guidance, setting):
    steps, size = setting.nll_steps, setting.batch_size
    return bits_per_dim(net, images, one_hot, guidance, num_steps=steps, batch_size=size)


KINDS = {
    "edm": Kind(_train_edm, edm.save_network, _edm_likelihood, "EDM loss", "probability flow"),
    "ddpm": Kind(
        _train_ddpm,
        save_ddpm,
        lambda net, images, one_hot, guidance, setting: ddpm_bound(
            net, images, one_hot, guidance, batch_size=setting.batch_size
        ),
        "noise MSE",
        "bound",
    ),
    "vae": Kind(
        _train_vae,
        save_vae,
        lambda net, images, one_hot, guidance, setting: vae_bound(
            net, images, batch_size=setting.batch_size
        ),
        "−ELBO [bits/dim]",
        "bound",
    ),
}
