"""Sampling of discrete diffusion models: `dg.sampling` with `DDPMSampling` in place of `Sampling`.

    draw_images(ddpm, seeds, DDPMSampling("ddim", num_steps=50), guidance)
    generate(dit, store, DDPMSampling("ancestral", 250, clip_denoised=False, LT_cfg=1.25,
    ST_cfg=3.0), guidance)

Three kinds of guidance may be combined: a `Guidance` of `edm`, such as a discriminator's;
classifier-free guidance of a network that knows a class for none; and a classifier's. The gradients
of the first and the last are summed.

A model is a `dg.models.discrete_diffusion.DiscreteDiffusion`.
"""

import math
from collections.abc import Callable
from dataclasses import asdict, dataclass

import numpy as np
import torch
from torch import Tensor, nn

from dg.adapters import LAST_TIMESTEP, published_alpha_bar
from dg.models.classifier_free_guidance import ClassifierFreeGuidance, branched_scale
from dg.models.classifier_guidance import (
    check_classifier,
    check_timesteps,
    classifier_gradient,
    sum_of,
    through_encoder,
)
from edm.guidance import Guidance
from guided_diffusion import GaussianDiffusion
from guided_diffusion.schedules import linear_betas

METHODS = ("ddim", "ancestral")
TIMES = ("level", "step")


@dataclass(frozen=True)
class DDPMSampling:
    """How to sample a discrete diffusion model. None leaves a value to the sampler. Impossible
    values: ValueError."""

    method: str = "ddim"  # Song et al. 2021, or "ancestral", Ho et al. 2020
    num_steps: int | None = None  # steps taken, evenly spaced in the process; None: all
    eta: float = 0.0  # DDIM noise scale, from 0 to 1
    clip_denoised: bool = (
        True  # clip predicted clean images to [-1, 1]; unclipped samples leave the range
    )
    LT_cfg: float | None = (
        # scale of classifier-free guidance at t > branch_time; 1 and None switch it off
        None
    )
    ST_cfg: float | None = None  # scale of classifier-free guidance at t <= branch_time
    branch_time: int | None = None
    cfg_channels: int | None = None  # number of first channels that it guides; None: 3
    classifier_scale: float | None = None  # scale of classifier guidance
    dg_time: str | None = None  # a discriminator's time, "level" or "step": see `as_cond_fn`
    # the steps as `guided_diffusion.schedules.space_timesteps` takes them, in place of num_steps
    respacing: str | None = None

    def __post_init__(self):
        if self.method not in METHODS:
            raise ValueError(f"method is {self.method!r}; use {' or '.join(METHODS)}")
        if self.num_steps is not None and self.num_steps < 1:
            raise ValueError(f"{self.num_steps} sampling steps; give at least 1")
        if self.num_steps is not None and self.respacing is not None:
            raise ValueError("num_steps and respacing are both given; give one of them")
        if not 0 <= self.eta <= 1 or (self.eta and self.method != "ddim"):
            raise ValueError(
                f"eta is {self.eta:g} with {self.method}; give a number from 0 to 1, and 0 unless "
                "the method is ddim"
            )
        for name in ("LT_cfg", "ST_cfg", "classifier_scale"):
            if not math.isfinite(getattr(self, name) or 0):
                raise ValueError(f"{name} is {getattr(self, name)}; give a finite number")
        if (
            (self.branch_time, self.cfg_channels) != (None, None)
            and self.LT_cfg is None
            and self.ST_cfg is None
        ):
            raise ValueError(
                "branch_time and cfg_channels belong to classifier-free guidance; give "
                "LT_cfg and ST_cfg too"
            )
        if self.cfg_channels is not None and self.cfg_channels < 1:
            raise ValueError(f"cfg_channels is {self.cfg_channels}; give at least 1")
        if self.dg_time not in (None, *TIMES):
            raise ValueError(f"dg_time is {self.dg_time!r}; use {' or '.join(TIMES)}")

    @property
    def steps(self) -> str | None:
        """The steps taken, as `DiscreteDiffusion.respaced` takes them."""
        return self.respacing or (self.num_steps and str(self.num_steps))

    @property
    def sampler(self):
        return ddpm_sampler

    def kwargs(self) -> dict:
        return {name: value for name, value in asdict(self).items() if value is not None}


@torch.no_grad()
def ddpm_sampler(
    model,
    latents: Tensor,
    class_labels: Tensor | None = None,
    randn_like=torch.randn_like,
    guidance: Guidance | None = None,
    method: str = "ddim",
    num_steps: int | None = None,
    eta: float = 0.0,
    clip_denoised: bool = True,
    LT_cfg: float | None = None,
    ST_cfg: float | None = None,
    branch_time: int = 200,
    cfg_channels: int = 3,
    classifier_scale: float = 0.0,
    dg_time: str = "level",
    respacing: str | None = None,
) -> Tensor:
    """Draw images or latents from noise. The arguments are those of `edm.edm_sampler` and the
    values of `DDPMSampling`.

    latents       [N, C, H, W]  standard normal
    class_labels  [N, K]        one-hot; None for an unconditional network, unless a classifier
                                leads it to classes
    randn_like                  source of the noise; called once per step, also where none is added
    guidance                    see `as_cond_fn`; its gradient and the classifier's enter by the
                                mean ("ancestral"; Dhariwal & Nichol 2021, algorithm 1) or by the
                                score ("ddim"; algorithm 2)
    returns       [N, C, H, W]  float64, images nominally in [-1, 1]

    ValueError for guidance that the model has no class or no classifier for.
    """
    check_guidance(model, LT_cfg, ST_cfg, classifier_scale)
    diffusion = model.respaced(respacing or (num_steps and str(num_steps)))
    x = latents.to(torch.float64)
    network = model.net if model.label_dim else lambda x, t, y=None: model.net(x, t)
    scales = [1.0 if scale is None else scale for scale in (LT_cfg, ST_cfg)]
    if scales != [1, 1]:
        network = ClassifierFreeGuidance(
            network, branched_scale(*scales, branch_time), model.null_class, cfg_channels
        )
    steer = None
    if guidance is not None:
        guidance.begin(x)
        steer = as_cond_fn(guidance, diffusion, class_labels, dg_time, network)
    if classifier_scale:
        time_scale = diffusion.schedule.time_scale
        leading = classifier_gradient(model.classifier, classifier_scale, time_scale)
        steer = leading if steer is None else sum_of(steer, leading)
        if dg_time == "step" and guidance is not None:
            steer = _in_one_pass(
                steer, model.classifier, classifier_scale, guidance, diffusion, class_labels
            )
    kwargs = dict(
        randn_like=randn_like,
        clip_denoised=clip_denoised,
        cond_fn=steer,
        model_kwargs={} if class_labels is None else {"y": class_labels.argmax(dim=1)},
    )
    if method == "ancestral":
        return diffusion.p_sample_loop(network, x, **kwargs)
    return diffusion.ddim_sample_loop(network, x, eta=eta, **kwargs)


def _in_one_pass(
    apart: Callable, classifier: nn.Module, scale: float, guidance, diffusion, class_labels
) -> Callable:
    """The sum of a classifier's and a guidance's gradients by one pass of the encoder that both
    stand on; `apart`, which is that sum in two passes, where they do not.

    With dg_time "step" both see x_t at the time t / 999. But at t = 0 a discriminator takes the
    smallest time of its training.
    """
    on_features = guidance.on_features(classifier)
    if on_features is None or diffusion.schedule.time_scale != 1:
        return apart
    together = through_encoder(
        classifier,
        [
            as_cond_fn(on_features, diffusion, class_labels, "step"),
            classifier_gradient(classifier, scale, of_features=True),
        ],
    )
    return lambda x, t, **kwargs: (together if t.min() > 0 else apart)(x, t, **kwargs)


def check_guidance(
    model,
    LT_cfg: float | None = None,
    ST_cfg: float | None = None,
    classifier_scale: float | None = None,
) -> None:
    """ValueError unless the model has the null class or classifier that such guidance needs."""
    if not {LT_cfg, ST_cfg} <= {None, 1} and model.null_class is None:
        raise ValueError(
            "classifier-free guidance needs a network with a null class, as DiT has; leave "
            "its scales out"
        )
    if classifier_scale:
        if model.classifier is None:
            raise ValueError("classifier guidance needs a classifier of noisy images; give one")
        check_classifier(model.classifier, model)
        check_timesteps(model.respaced())


def _is_published(diffusion: GaussianDiffusion) -> bool:
    """Whether the steps are some of the linear schedule of 1000, to which t / 999 is the time."""
    schedule, alpha_bars = diffusion.schedule, (1 - linear_betas(LAST_TIMESTEP + 1)).cumprod()
    return schedule.timestep_map[-1] <= LAST_TIMESTEP and np.allclose(
        schedule.alphas_cumprod, alpha_bars[schedule.timestep_map], rtol=1e-6, atol=0
    )


def as_cond_fn(
    guidance: Guidance,
    diffusion: GaussianDiffusion,
    class_labels: Tensor | None = None,
    dg_time: str = "level",
    network: Callable | None = None,
) -> Callable:
    """A `cond_fn(x, t)` for the samplers of `diffusion`: a guidance's change of the score of x_t.

    class_labels  [N, K]  one-hot, passed on to the guidance
    dg_time       "level": noise levels are matched. "step": x_t counts as that of time t / 999 of
                  the linear VP schedule, as in the authors' code for DiT, and as classifiers
                  take it
    network       called as network(x, t, **kwargs) of the sampler; only a guidance that depends on
                  the network's own denoised image needs it, and evaluates it once more

    x_t / sqrt(alpha_bar) is at EDM scale with sigma^2 = (1 - alpha_bar) / alpha_bar, so the same
    discriminator serves every schedule. There the score's share of a correction of the denoised
    image is correction / sigma^2 (Karras et al. 2022, Eq. 3), here it is that over sqrt(alpha_bar)
    by the chain rule.

    The level of step t of the linear schedule is that of time 0.10061 at t = 100, where "step" says
    0.10010, and of 1.0034 at t = 999, beyond the window's end at 1. Networks see it only in the
    embedding of 999 times the time, which it moves by 0.5 to 3.4; a head with random weights then
    gives gradients that differ by 12% (t = 150) to 61% (t = 900), a trained one, smooth in time, by
    less. The authors train on levels, so "level" agrees with the training of their heads; "step"
    agrees with their sampling.

    Every step is of first order, so the weight of the first order counts, and 1 is exact for an
    exact log ratio. ValueError for boosting, which needs churn, and for a missing network.
    """
    if guidance.needs_step:
        raise ValueError(
            "the guidance needs the steps of EDM's sampler, as boosting does, which a DDPM "
            "does not have; leave boosting out, and guide at every step"
        )
    if guidance.uses_network and network is None:
        raise ValueError(
            "the guidance depends on the network's denoised image; pass the network to as_cond_fn"
        )
    if dg_time == "step" and not _is_published(diffusion):
        raise ValueError(
            "dg_time 'step' takes t / 999 of the linear schedule of 1000 steps, but this "
            "process has another schedule; use 'level'"
        )
    timesteps, alpha_bars = diffusion.schedule.timestep_map, diffusion.schedule.alphas_cumprod

    def gradient(x: Tensor, t: Tensor, **kwargs) -> Tensor:
        index = np.searchsorted(timesteps, t.cpu().numpy())
        if dg_time == "step":
            alpha_bar = published_alpha_bar(t)
        else:
            alpha_bar = torch.as_tensor(alpha_bars[index], device=x.device)  # float64 [N]
        own = None
        if guidance.uses_network:
            positions = torch.as_tensor(index, device=x.device)
            image = diffusion.p_mean_variance(
                network, x, positions, clip_denoised=False, model_kwargs=kwargs
            ).pred_xstart
            own = lambda *_: image  # noqa: E731
        step = diffusion.num_steps - 1 - int(index[0])
        return guidance.score(x, None, class_labels, alpha_bar=alpha_bar, net=own, step=step)

    return gradient
