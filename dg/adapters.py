"""Discriminator guidance in the samplers of other projects."""

import inspect
from collections.abc import Callable

import torch
from torch import Tensor, nn

from dg import vp
from dg.discriminator import Discriminator, clipped
from edm.guidance import Guidance
from edm.sampler import per_image

# The last timestep of 1,000-step processes; VP time is timestep / 999, as the encoder scales it.
LAST_TIMESTEP = 999


class GuidedDenoiser:
    """A denoiser `model(x, sigma)` with guidance: for samplers in the style of k-diffusion.

    guided = GuidedDenoiser(model, guidance, class_labels); k_diffusion.sampling.sample_heun(guided,
    x, sigmas)

    model         called as model(x, sigma), or with labels if there are any: by the name
                  class_labels if it has a parameter of that name or takes any name, else as the
                  third argument
    class_labels  [N, K] one-hot, for the model and the guidance; they may be given to a call
                  instead

    The sampler does not tell its step or stage, so every call counts as a first-order one.
    ValueError for a guidance that needs the step, as a boosted one does, and for labels that the
    model does not take.
    """

    def __init__(
        self, model: Callable[..., Tensor], guidance: Guidance, class_labels: Tensor | None = None
    ):
        if guidance.needs_step:
            raise ValueError(
                "the guidance needs the sampler's step, which this kind of sampler does not "
                "pass on; leave boosting out"
            )
        self.model, self.guidance = model, guidance
        self.class_labels = self._checked(class_labels)

    def __call__(
        self, x: Tensor, sigma: Tensor, class_labels: Tensor | None = None, **kwargs
    ) -> Tensor:
        """Denoised images like x [N, C, H, W] at noise level sigma [N]; `kwargs` go to the model.

        ValueError for other class_labels than those of the constructor.
        """
        labels = self._checked(class_labels) if class_labels is not None else self.class_labels
        if self.class_labels is not None and labels is not self.class_labels:
            own = self.class_labels.to(labels)
            if own.shape != labels.shape or not torch.equal(own, labels):
                raise ValueError(
                    "the class_labels of this call are not those that the denoiser was made with; "
                    "give them in one place"
                )

        def net(x, sigma, class_labels=None):
            if class_labels is None:
                return self.model(x, sigma, **kwargs)
            if self._takes(class_labels=class_labels):
                return self.model(x, sigma, class_labels=class_labels, **kwargs)
            return self.model(x, sigma, class_labels, **kwargs)

        return self.guidance.denoise(net, x, sigma, labels, step=1, order=1)

    def _checked(self, class_labels: Tensor | None) -> Tensor | None:
        """The labels; ValueError unless they are one-hot and the model takes them."""
        if class_labels is None:
            return None
        if class_labels.ndim != 2:
            raise ValueError(
                f"class_labels have the shape {list(class_labels.shape)}; give them one-hot, [N, K]"
            )
        if not self._takes(class_labels=class_labels) and not self._takes(class_labels):
            raise ValueError(
                "the model takes no class_labels, so they would reach the guidance alone; "
                "give a model(x, sigma, class_labels)"
            )
        return class_labels

    def _takes(self, *args, **kwargs) -> bool:
        """Whether the model can be called with these beside x and sigma."""
        called = self.model.forward if isinstance(self.model, nn.Module) else self.model
        try:
            inspect.signature(called).bind(None, None, *args, **kwargs)
        except TypeError:
            return False
        return True


def cond_fn(
    discriminator: Discriminator,
    scale: float = 1.0,
    time_min: float = 0.0,
    clip: float | None = None,
    alphas_cumprod=None,
) -> Callable:
    """A `cond_fn(x, t, y)` for discrete VP samplers (guided-diffusion, DiT): scale * grad_x log
    ratio, like x.

    alphas_cumprod  [T] of the sampler's process, from the first step to the last: an array or
                    tensor, such as `scheduler.alphas_cumprod` of diffusers. None: the linear
                    schedule of 1000 steps, of which a discriminator takes t / 999 for the time, as
                    the authors' code does

    x  [N, C, H, W]  noisy images or latents at VP scale
    t  [N]           original timesteps 0..T-1; samples of a VP time (t / 999, or that of the noise
                     level) up to time_min are not guided, nor, where alphas_cumprod are given,
                     those beyond 1
    y  [N] or [N, K] class numbers or one-hot, None for an unconditional discriminator

    It is the gradient in x at VP scale, that is correction / (sigma^2 sqrt(alpha_bar)) of a
    guidance at x / sqrt(alpha_bar) and sigma = sqrt((1 - alpha_bar) / alpha_bar). Samplers that
    take a cond_fn add variance * cond_fn to the mean of their step (Dhariwal & Nichol 2021,
    algorithm 1). For others `guided_prediction` changes what the network predicts. ValueError for
    timesteps that the process does not have.
    """
    alpha_bars = None if alphas_cumprod is None else _checked_alphas(alphas_cumprod)
    num_steps = LAST_TIMESTEP + 1 if alpha_bars is None else len(alpha_bars)

    def gradient(x: Tensor, t: Tensor, y: Tensor | None = None, **kwargs) -> Tensor:
        if not (
            (t >= 0) & (t < num_steps) & (t == t.floor() if t.is_floating_point() else True)
        ).all():
            raise ValueError(
                f"timesteps {t.tolist()}, but the process has the whole numbers 0 to "
                f"{num_steps - 1}; "
                "give the alphas_cumprod of the sampler's own process"
            )
        if alpha_bars is None:
            time = t.to(torch.float64) / LAST_TIMESTEP
            guided = time > time_min

            def logits(leaf):
                return discriminator.at_vp(leaf.to(torch.float32), time, y)
        else:
            alpha_bar = alpha_bars.to(t.device)[t.long()]
            alpha_bar = alpha_bar.clamp(min=torch.finfo(torch.float32).tiny)
            sigma = ((1 - alpha_bar) / alpha_bar).sqrt()
            time, _ = vp.from_sigma(sigma)
            guided = (time > time_min) & (time <= 1)

            def logits(leaf):
                return discriminator(leaf / per_image(alpha_bar.sqrt(), leaf), sigma, y)

        with torch.enable_grad():
            leaf = x.detach().requires_grad_()
            log_ratio = clipped(logits(leaf), clip)
            (result,) = torch.autograd.grad(log_ratio.sum(), leaf)
        return torch.where(guided.reshape(-1, 1, 1, 1), scale * result, 0.0)

    return gradient


def _checked_alphas(alphas_cumprod) -> Tensor:
    """Return them as float64 [T]. ValueError for values that no process has."""
    alpha_bars = torch.as_tensor(alphas_cumprod, dtype=torch.float64)
    falling = alpha_bars.ndim == 1 and len(alpha_bars) and (alpha_bars.diff() <= 0).all()
    if not falling or not ((alpha_bars >= 0) & (alpha_bars <= 1)).all():
        raise ValueError(
            "alphas_cumprod must fall from 1 towards 0; give those of the whole process that "
            "the network was trained on"
        )
    return alpha_bars


PREDICTIONS = ("epsilon", "v_prediction", "sample")


def guided_prediction(
    prediction: Tensor, gradient: Tensor, alphas_cumprod, prediction_type: str = "epsilon"
) -> Tensor:
    """Return a network's prediction for x_t after guidance by the gradient of a `cond_fn`, for any
    sampler.

    prediction       [N, C or more, H, W]  of the network; channels beyond C, learned variances,
                                           stay
    gradient         [N, C, H, W]          of `cond_fn`, at x_t
    alphas_cumprod   [] or [N]             of the timesteps
    prediction_type  what the network predicts, in diffusers' words: "epsilon", the noise;
                     "v_prediction" (Salimans & Ho 2022), sqrt(alpha_bar) noise - sqrt(1 -
                     alpha_bar) image; "sample", the image

    The score of x_t grows by the gradient, so the noise falls by sqrt(1 - alpha_bar) times it
    (Dhariwal & Nichol 2021, algorithm 2), the image grows by (1 - alpha_bar) / sqrt(alpha_bar), and
    v falls by sqrt((1 - alpha_bar) / alpha_bar). ValueError for another prediction type.
    """
    if prediction_type not in PREDICTIONS:
        raise ValueError(f"prediction_type is {prediction_type!r}; use {' or '.join(PREDICTIONS)}")
    alpha_bar = torch.as_tensor(alphas_cumprod, dtype=torch.float64, device=gradient.device)
    std = (1 - alpha_bar).sqrt()
    signal = alpha_bar.sqrt().clamp(min=torch.finfo(torch.float32).tiny)
    factor = {"epsilon": -std, "v_prediction": -std / signal, "sample": std**2 / signal}
    change = per_image(factor[prediction_type], gradient) * gradient
    channels = gradient.shape[1]
    guided = prediction[:, :channels] + change.to(prediction.dtype)
    return torch.cat([guided, prediction[:, channels:]], dim=1)
