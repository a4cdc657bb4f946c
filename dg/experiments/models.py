"""The kinds of models that a setting may have: how each is trained, saved and measured."""

from collections.abc import Callable
from typing import NamedTuple

import edm
from dg.evaluation.bounds import ddpm_bound, vae_bound
from dg.evaluation.likelihood import bits_per_dim
from dg.evaluation.trajectory import ddim_trajectory, score_trajectory
from dg.models.ddpm import save_ddpm
from dg.models.vae import save_vae
from dg.pretraining.ddpm import train_ddpm
from dg.pretraining.held_out_loss import ddpm_loss, edm_loss, vae_loss
from dg.pretraining.score import build_score_network, train_score_network
from dg.pretraining.vae import train_vae


class Kind(NamedTuple):
    """What is done with one kind of models.

    train       (images, network, settings, conditional, device, **as of the training) ->
                (network, log)
    test_loss   (settings, network, images, their classes, generator) -> float
    save        (file, network)
    likelihood  (network, test images, their one-hot classes, guidance, setting) -> `Likelihood`
    trajectory  (network, seeds, sampling, guidance, device) -> (denoised images, noise levels) of
                the steps; None where there are none
    loss        what its training loss is, for a figure
    measures    what its likelihood is: "probability flow" or "bound"
    bound       (network, images, their one-hot classes, setting) -> `Bound`, for many images; None
                where there is none
    """

    train: Callable
    test_loss: Callable
    save: Callable
    likelihood: Callable
    trajectory: Callable | None
    loss: str
    measures: str
    bound: Callable | None = None


def _train_edm(data, network, settings, conditional, device, **kwargs):
    if network.get("precond", "edm") == "edm" and "sigma_data" not in network:
        network = network | {"sigma_data": round(float(data.images.std()) / 127.5, 3)}
    net = build_score_network(data, network, settings.seed, conditional).to(device)
    return train_score_network(net, data, settings, **kwargs)


def _train_vae(data, network, settings, conditional, device, **kwargs):
    return train_vae(data, network, settings, device, **kwargs)


def _edm_likelihood(net, images, one_hot, guidance, setting):
    steps, size = setting.nll_steps, setting.batch_size
    return bits_per_dim(net, images, one_hot, guidance, num_steps=steps, batch_size=size)


def _ddpm_likelihood(net, images, one_hot, guidance, setting):
    return ddpm_bound(net, images, one_hot, guidance, batch_size=setting.batch_size)


def _vae_likelihood(net, images, one_hot, guidance, setting):
    return vae_bound(net, images, batch_size=setting.batch_size)


def _ddpm_some_terms(net, images, one_hot, setting):
    size, terms = setting.batch_size, setting.bound_terms
    return ddpm_bound(net, images, one_hot, num_terms=terms, batch_size=size)


def _vae_bound(net, images, one_hot, setting):
    return _vae_likelihood(net, images, one_hot, None, setting)


_EDM = (_train_edm, edm_loss, edm.save_network, _edm_likelihood, score_trajectory)
_DDPM = (train_ddpm, ddpm_loss, save_ddpm, _ddpm_likelihood, ddim_trajectory)
_VAE = (_train_vae, vae_loss, save_vae, _vae_likelihood, None)
KINDS = {
    "edm": Kind(*_EDM, loss="EDM loss", measures="probability flow"),
    "ddpm": Kind(*_DDPM, loss="noise MSE", measures="bound", bound=_ddpm_some_terms),
    "vae": Kind(*_VAE, loss="−ELBO [bits/dim]", measures="bound", bound=_vae_bound),
}
