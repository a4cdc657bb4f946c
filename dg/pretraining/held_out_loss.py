"""The loss of a model in training on fixed test images, with the same noise every time.

Each loss takes (settings of the training, model, images in [-1, 1], their classes, generator).
"""

import math
from collections.abc import Callable

import torch

import edm
from dg.data.datasets import ImageSet, to_float
from dg.models.vae import elbo
from dg.runtime.randomness import step_generator
from guided_diffusion import training_losses


def watched(loss: Callable, settings, images: ImageSet, device) -> Callable:
    """Observer of a training, which gives {"test_loss": the model's `loss` on the images}."""
    x = to_float(images.images).to(device)
    classes = torch.from_numpy(images.labels).to(device)

    @torch.no_grad()
    def observe(model):
        mode = model.training
        value = loss(settings, model.eval(), x, classes, step_generator(0, "test loss", 0))
        model.train(mode)
        return {"test_loss": value}

    return observe


def edm_loss(settings, net, x, classes, generator) -> float:
    """EDM's weighted denoising error."""
    one_hot = torch.eye(net.label_dim, device=x.device)[classes] if net.label_dim else None
    loss = edm.EDMLoss(settings.P_mean, settings.P_std, net.sigma_data)
    return loss(net, x, one_hot, generator=generator).mean().item()


def ddpm_loss(settings, model, x, classes, generator) -> float:
    """The error of the predicted noise, with the share of a learned variance."""
    diffusion = model.diffusion
    t = torch.randint(diffusion.num_steps, [len(x)], generator=generator).to(x.device)
    noise = torch.randn(x.shape, generator=generator).to(x.device)
    kwargs = {"y": classes} if model.label_dim else {}
    return training_losses(diffusion, model.net, x, t, noise, kwargs).loss.mean().item()


def vae_loss(settings, vae, x, classes, generator) -> float:
    """The negative ELBO in bits/dim."""
    noise = torch.randn(len(x), vae.latent_dim, generator=generator).to(x.device)
    nats = sum(part.mean().item() for part in elbo(vae, x, noise))
    return nats / (x[0].numel() * math.log(2))
