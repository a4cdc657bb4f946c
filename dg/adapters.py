"""Discriminator guidance in the samplers of other projects."""

import inspect
import warnings
from collections.abc import Callable

import torch
from torch import Tensor, nn

from dg import vp
from dg.discriminator import Discriminator
from dg.extractors import one_hot
from dg.guidance import DiscriminatorGuidance
from edm.guidance import Guidance
from edm.parametrisations import coefficients, noise_level, per_image
from edm.precond import Preconditioner

# The last timestep of 1,000-step processes; VP time is timestep / 999, as the encoder scales it.
LAST_TIMESTEP = 999
FIRST_TIME = 1e-5  # smallest time in the discriminator's training


# Samplers of k-diffusion that evaluate the network twice in a step, a first and a second stage.
TWO_STAGES = (
    "sample_heun",
    "sample_dpm_2",
    "sample_dpm_2_ancestral",
    "sample_dpmpp_2s_ancestral",
    "sample_dpmpp_sde",
)
ONE_STAGE = (
    "sample_euler",
    "sample_euler_ancestral",
    "sample_lms",
    "sample_dpmpp_2m",
    "sample_dpmpp_2m_sde",
    "sample_dpmpp_3m_sde",
)
# What models call their class labels: EDM's, k-diffusion's own, guided-diffusion's.
LABELS = ("class_labels", "class_cond", "y")


def check_steps_unknown(guidance: Guidance) -> None:
    """ValueError for a guidance that needs what samplers of other projects do not tell."""
    if guidance.needs_step:
        raise ValueError(
            "the guidance needs the sampler's step, which this kind of sampler does not "
            "pass on; leave boosting out, and guide at every step"
        )


class GuidedDenoiser:
    """A denoiser `model(x, sigma)` with guidance: for samplers in the style of k-diffusion.

    guided = GuidedDenoiser(model, guidance); k_diffusion.sampling.sample_euler(guided, x, sigmas,
    extra_args={"class_cond": labels})

    model         called as model(x, sigma), with labels if there are any: by the name of `LABELS`
                  that it has a parameter of, class_labels if it takes any name, else as the third
                  argument. An EDM network's encoder pass is shared with a discriminator on it
    class_labels  [N] class numbers or [N, K] one-hot, for the model and the guidance; they may be
                  given to a call instead, by any name of `LABELS`
    sampler       the function of k-diffusion that will call it, or its name: then the second
                  evaluation of a step of `TWO_STAGES` counts as of second order. None: every call
                  counts as a first-order one. A call at more noise than the first one begins anew

    A sampler does not tell its stage, and a Heun step's second evaluation looks like an Euler
    step's next one, so the order is known only where the sampler is given. A warning says so for a
    guidance to which it matters. ValueError for such a guidance in a sampler whose stages change
    from step to step, for one that needs the step, as a boosted one does, and for labels that the
    model does not take.
    """

    def __init__(
        self,
        model: Callable[..., Tensor],
        guidance: Guidance,
        class_labels: Tensor | None = None,
        sampler: Callable | str | None = None,
    ):
        check_steps_unknown(guidance)
        self.model, self.guidance = model, guidance
        self.stages = self._stages(guidance, sampler)
        self._first_sigma, self._calls = None, 0
        self.class_labels = self._checked(class_labels)

    def __call__(self, x: Tensor, sigma: Tensor, *args, **kwargs) -> Tensor:
        """Denoised images like x [N, C, H, W] at noise level sigma [N]; a third argument or one
        named as in `LABELS` are class labels, all others go to the model.

        ValueError for other class labels than those of the constructor.
        """
        named = [kwargs.pop(name) for name in LABELS if kwargs.get(name) is not None]
        given = [labels for labels in (*args, *named) if labels is not None]
        if len(given) > 1:
            raise ValueError("a call has class labels twice; give them in one place")
        labels = self._checked(given[0]) if given else self.class_labels
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
            if (name := self._label_name(class_labels)) is not None:
                return self.model(x, sigma, **{name: class_labels}, **kwargs)
            return self.model(x, sigma, class_labels, **kwargs)

        # the network itself, whose encoder pass the guidance shares
        shared = not kwargs and self.guidance.shares_pass(self.model)
        order = self._order(x, sigma)
        network = self.model if shared else net
        return self.guidance.denoise(network, x, sigma, labels, step=1, order=order)

    @staticmethod
    def _stages(guidance: Guidance, sampler: Callable | str | None) -> int:
        """Evaluations of a step."""
        name = sampler if sampler is None or isinstance(sampler, str) else sampler.__name__
        if name in ONE_STAGE or not guidance.needs_order:
            return 1
        if name in TWO_STAGES:
            return 2
        if name is None:
            warnings.warn(
                "the guidance treats the two stages of a step differently, but every call counts "
                "as a first one; give the sampler, or one weight for both orders",
                stacklevel=3,
            )
            return 1
        raise ValueError(
            f"the stages of {name} are not known, and the guidance treats them differently; give "
            "one weight for both orders"
        )

    def _order(self, x: Tensor, sigma: Tensor) -> int:
        highest = float(torch.as_tensor(sigma).max())
        if self._first_sigma is None or highest >= self._first_sigma:
            self._first_sigma, self._calls = highest, 0
            self.guidance.begin(x)
        self._calls += 1
        return 2 if self.stages == 2 and self._calls % 2 == 0 else 1

    def _checked(self, class_labels: Tensor | None) -> Tensor | None:
        """The labels; ValueError unless they are labels and the model takes them."""
        if class_labels is None:
            return None
        if class_labels.ndim != 2 and (class_labels.ndim != 1 or class_labels.is_floating_point()):
            raise ValueError(
                f"class_labels have the shape {list(class_labels.shape)}; give them one-hot, "
                "[N, K], or as class numbers, [N]"
            )
        if isinstance(self.model, Preconditioner):
            class_labels = one_hot(class_labels, self.model.label_dim)
        if self._label_name(class_labels) is None and not self._takes(class_labels):
            raise ValueError(
                "the model takes no class_labels, so they would reach the guidance alone; "
                "give a model(x, sigma, class_labels)"
            )
        return class_labels

    def _label_name(self, class_labels: Tensor) -> str | None:
        return next((name for name in LABELS if self._takes(**{name: class_labels})), None)

    def _takes(self, *args, **kwargs) -> bool:
        """Whether the model can be called with these beside x and sigma."""
        called = self.model.forward if isinstance(self.model, nn.Module) else self.model
        try:
            inspect.signature(called).bind(None, None, *args, **kwargs)
        except TypeError:
            return False
        return True


def published_alpha_bar(t: Tensor) -> Tensor:
    """alpha_bar, float64 like t, of original timesteps 0..999 at VP time t / 999, as the authors'
    code takes it."""
    time = t.to(torch.float64) / LAST_TIMESTEP
    return vp.mean(time.clamp(min=FIRST_TIME)) ** 2


def cond_fn(
    discriminator: Discriminator | Guidance,
    scale: float = 1.0,
    time_min: float = 0.0,
    clip: float | None = None,
    alphas_cumprod=None,
) -> Callable:
    """A `cond_fn(x, t, y)` for discrete VP samplers (guided-diffusion, DiT): scale * grad_x log
    ratio, like x.

    discriminator   on any extractor; or a guidance, whose share of the score is taken
    alphas_cumprod  [T] of the sampler's process, from the first step to the last: an array or
                    tensor, such as `scheduler.alphas_cumprod` of diffusers. None: the linear
                    schedule of 1000 steps, of which a discriminator takes t / 999 for the time, as
                    the authors' code does

    x  [N, C, H, W]  noisy images or latents at VP scale
    t  [N] or one    original timesteps 0..T-1, whole numbers of any type; samples of a VP time
                     (t / 999, or that of the noise level) up to time_min are not guided, nor, where
                     alphas_cumprod are given, those beyond 1 by a discriminator
    y  [N] or [N, K] class numbers or one-hot, None for an unconditional discriminator

    It is `Guidance.score`. Samplers that take a cond_fn add variance * cond_fn to the mean of their
    step (Dhariwal & Nichol 2021, algorithm 1). For others `guided_prediction` changes what the
    network predicts. ValueError for timesteps that the process does not have.
    """
    guidance = discriminator
    if not isinstance(guidance, Guidance):
        guidance = DiscriminatorGuidance(discriminator, (1.0, 0.0), time_min=0.0, clip=clip)
    alpha_bars = None if alphas_cumprod is None else _checked_alphas(alphas_cumprod)
    num_steps = LAST_TIMESTEP + 1 if alpha_bars is None else len(alpha_bars)

    def gradient(x: Tensor, t: Tensor | int, y: Tensor | None = None, **kwargs) -> Tensor:
        t = torch.as_tensor(t, device=x.device)
        if not ((t >= 0) & (t < num_steps) & (t == t.to(torch.float64).floor())).all():
            raise ValueError(
                f"timesteps {t.tolist()}, but the process has the whole numbers 0 to "
                f"{num_steps - 1}; "
                "give the alphas_cumprod of the sampler's own process"
            )
        if alpha_bars is None:
            time, alpha_bar = t.to(torch.float64) / LAST_TIMESTEP, published_alpha_bar(t)
        else:
            alpha_bar = alpha_bars.to(t.device)[t.long()]
            time, _ = vp.from_sigma(noise_level(alpha_bar=alpha_bar)[0])
        result = scale * guidance.score(x, None, y, alpha_bar=alpha_bar)
        return torch.where((time > time_min).reshape(-1, 1, 1, 1), result, 0.0)

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


def guided_prediction(
    prediction: Tensor, gradient: Tensor, alphas_cumprod, prediction_type: str = "epsilon"
) -> Tensor:
    """Return a network's prediction for x_t after guidance by the gradient of a `cond_fn`, for any
    sampler.

    prediction       [N, C or more, H, W]  of the network; channels beyond C, learned variances,
                                           stay
    gradient         [N, C, H, W]          of `cond_fn`, at x_t
    alphas_cumprod   [] or [N]             of the timesteps
    prediction_type  what the network predicts, one of `edm.PREDICTIONS`

    The score of x_t grows by the gradient, so the noise falls by sqrt(1 - alpha_bar) times it
    (Dhariwal & Nichol 2021, algorithm 2), the image grows by (1 - alpha_bar) / sqrt(alpha_bar), and
    v falls by sqrt((1 - alpha_bar) / alpha_bar). ValueError for another prediction type.
    """
    alpha_bar = torch.as_tensor(alphas_cumprod, dtype=torch.float64, device=gradient.device)
    sigma, scale = noise_level(alpha_bar=alpha_bar)
    _, out = coefficients(prediction_type, sigma)
    if prediction_type == "score":
        out = scale * out
    factor = scale * sigma**2 / out.masked_fill(out == 0, torch.inf)
    return joined(prediction, per_image(factor, gradient) * gradient)


def joined(prediction: Tensor, change: Tensor) -> Tensor:
    """A prediction [N, C or more, H, W] whose first channels are changed by [N, C, H, W], in its
    own dtype; the others, learned variances, stay."""
    channels = change.shape[1]
    guided = prediction[:, :channels] + change.to(prediction.dtype)
    return torch.cat([guided, prediction[:, channels:]], dim=1)
