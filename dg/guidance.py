"""Discriminator guidance: the gradient of the log density ratio, added to the denoised image while
sampling.

Kim et al. 2023, Eq. 8: the true score is the model's plus grad_x log(p_data / p_model). In EDM's
terms the denoised image is raised by w sigma^2 grad_x log_ratio(x, sigma).
"""

import math
from collections.abc import Callable
from copy import copy
from dataclasses import asdict, dataclass

import torch
from torch import Tensor, nn

from dg import vp
from dg.discriminator import SIGMA_DATA, Discriminator, ScoreDifference, clipped, log_ratio
from edm.guidance import Guidance, added
from edm.parametrisations import per_image


@dataclass(frozen=True)
class Boosting:
    """More guidance for samples that look generated (log ratio below 0): Kim et al. 2023, appendix.

    At steps with step % churn_period == churn_phase, S_churn and S_noise replace the sampler's for
    samples whose log ratio was negative at the step before. At steps with step % factor_period ==
    0, the first-order guidance of such samples is multiplied by `factor`.
    """

    churn_period: int = 5
    churn_phase: int = 0
    factor_period: int = 2
    factor: float = 2.0
    S_churn: float = 4.0
    S_noise: float = 1.0


# What becomes of the last correction sigma^2 grad_x log_ratio at steps without an evaluation.
# "keep": it stays, which is right where sigma is far above the spread of the data: there the
# denoised images of data and model differ by their means. "rescale": it is multiplied by the change
# of sigma^2 / (sigma^2 + SIGMA_DATA^2), the noise's share of the variance. That is the same there.
# Far below, the gradient changes slowly, and this is the change of sigma^2. Of two Gaussians with
# this spread it is exact. "none": no guidance.
BETWEEN: dict[str, Callable[[Tensor], Tensor] | None] = {
    "rescale": lambda sigma: sigma**2 / (sigma**2 + SIGMA_DATA**2),
    "keep": torch.ones_like,
    "none": None,
}

# "authors": as in the authors' code; "paper": churn at every odd step, as in the paper.
BOOSTING = {"authors": Boosting(), "paper": Boosting(churn_period=2, churn_phase=1)}


class DiscriminatorGuidance(Guidance):
    """Steers a sampler by a discriminator.

    discriminator  gives logits, which estimate log p_data(x; sigma) - log p_model(x; sigma)
    weights        (first-order, second-order) guidance weight; an order of weight 0 costs nothing
    time_min, time_max  VP time window; a sample outside it is not guided, whatever the rest of the
                        batch does
    boosting       None, or how samples of negative log ratio are boosted
    clip           None, or the bound eps of the authors' code: probabilities are clipped to [eps, 1
                   - eps], which leaves the most obviously generated samples without guidance
    every          K: the discriminator is evaluated at steps 0, K, 2 K ... of the sampler alone
    between        what guides at the steps between: the last gradient as `BETWEEN` says; for a
                   sample that was outside of the window at the last evaluation, nothing
    """

    uses_network = False  # the correction is known without it, even on a shared encoder

    def __init__(
        self,
        discriminator: Discriminator,
        weights: tuple[float, float] = (2.0, 0.0),
        time_min: float = 0.01,
        time_max: float = 1.0,
        boosting: Boosting | None = None,
        clip: float | None = None,
        every: int = 1,
        between: str = "rescale",
    ):
        vp.check_window(time_min, time_max)
        if not all(map(math.isfinite, weights)):
            raise ValueError(f"guidance weights are {weights}; give finite numbers")
        if every < 1 or every != int(every):
            raise ValueError(f"guidance at every {every} steps; give a whole number from 1")
        if between not in BETWEEN:
            raise ValueError(f"between is {between!r}; use {', '.join(BETWEEN)}")
        self.discriminator, self.weights = discriminator, tuple(weights)
        self.time_min, self.time_max, self.boosting, self.clip = time_min, time_max, boosting, clip
        self.every, self.between = every, between
        # [N], of the last first-order stage; inf where not guided
        self.last_log_ratio: Tensor | None = None
        # gradient, log ratio and noise level of the last evaluation, for the steps between
        self._kept: tuple[Tensor, Tensor, Tensor] | None = None

    @property
    def needs_step(self) -> bool:
        return self.boosting is not None or self.every > 1

    @property
    def needs_order(self) -> bool:
        return len(set(self.weights)) > 1

    def describe(self) -> dict:
        """Heads and extractor by fingerprint, and the settings of the guidance."""
        settings = {
            "weights": self.weights,
            "window": [self.time_min, self.time_max],
            "clip": self.clip,
            "boosting": self.boosting and asdict(self.boosting),
        }
        if self.every > 1:
            settings |= {"every": self.every, "between": self.between}
        return self.discriminator.describe() | settings

    def networks(self) -> list[nn.Module]:
        return self.discriminator.networks()

    def begin(self, x: Tensor) -> None:
        self.last_log_ratio = torch.full([len(x)], math.inf, device=x.device)
        self._kept = None

    def churn(self, S_churn, S_noise, step):
        boosting = self.boosting
        if boosting is None or step % boosting.churn_period != boosting.churn_phase:
            return S_churn, S_noise
        low = self.last_log_ratio < 0
        if not low.any():
            return S_churn, S_noise

        def boosted(value, otherwise):  # float64 [N]
            values = (
                torch.as_tensor(v, dtype=torch.float64, device=low.device)
                for v in (value, otherwise)
            )
            return torch.where(low, *values)

        return boosted(boosting.S_churn, S_churn), boosted(boosting.S_noise, S_noise)

    def log_ratio(self, x: Tensor, sigma: Tensor, class_labels: Tensor | None = None) -> Tensor:
        """Estimate of log p_data(x; sigma) - log p_model(x; sigma), one value per sample.

        x             [N, C, H, W]  noisy images, EDM scale (data in [-1, 1] plus sigma * noise)
        sigma         [] or [N]     noise level
        class_labels  [N, K]        one-hot, None for an unconditional discriminator
        returns       [N]           differentiable in x

        Kim et al. 2023, Eq. 8. Rescaling to VP happens inside, so gradients are already at EDM
        scale.
        """
        return log_ratio(self.discriminator, x, sigma, class_labels, self.clip)

    def correction(
        self,
        x: Tensor,
        sigma: Tensor,
        class_labels: Tensor | None = None,
        step: int = 0,
        order: int = 1,
    ) -> Tensor | None:
        """w sigma^2 grad_x log_ratio, like x [N, C, H, W] in image units; zero outside the window.

        Where x requires a gradient the correction carries one: the divergence of the corrected flow
        needs it.
        """
        sigma = torch.as_tensor(sigma, device=x.device)
        guided = self._in_window(sigma, len(x))
        if self._evaluates(step, order):
            self._kept = None
        if not self.weights[order - 1] or not guided.any():
            self._remember(torch.full([len(x)], math.inf, device=x.device), order)
            return None
        if not self._evaluates(step, order):
            return self._between(guided, sigma, step, order)
        part = slice(None) if guided.all() else guided.nonzero().flatten()
        labels = None if class_labels is None else class_labels[part]
        sigma_part = sigma[part] if sigma.ndim else sigma
        ratio_part, gradient_part = self._gradient(
            x[part], lambda leaf: self.discriminator(leaf, sigma_part, labels)
        )
        log_ratio = torch.full([len(x)], math.inf, device=x.device, dtype=ratio_part.dtype)
        log_ratio[part] = ratio_part
        gradient = torch.zeros_like(x)
        gradient[part] = gradient_part
        return self._evaluated(gradient, log_ratio, sigma, step, order)

    def denoise(
        self, net, x: Tensor, sigma: Tensor, class_labels: Tensor | None, step: int, order: int
    ) -> Tensor:
        return added(*self.parts(net, x, sigma, class_labels, step, order))

    def shares_pass(self, net) -> bool:
        return self.discriminator.shares_encoder(net)

    def on_features(self, encoder: nn.Module) -> "DiscriminatorGuidance | None":
        """The same of features [N, F, h, w], divided as the noisy images are; None unless the
        discriminator stands on this encoder."""
        if not self.discriminator.shares_encoder(encoder):
            return None
        twin = copy(self)
        twin.discriminator = self.discriminator.on_features()
        twin._remember = self._remember  # the state stays with this one
        return twin

    def parts(
        self, net, x: Tensor, sigma: Tensor, class_labels: Tensor | None, step: int, order: int
    ) -> tuple[Tensor, Tensor | None]:
        """Denoised images, correction; on the network's own encoder both in one encoder pass."""
        sigma = torch.as_tensor(sigma, device=x.device)
        guided = self._in_window(sigma, len(x))
        shared = self.shares_pass(net) and self._evaluates(step, order) and guided.any()
        if not shared:
            return super().parts(net, x, sigma, class_labels, step, order)
        encoding = None

        def logits(leaf):
            nonlocal encoding
            encoding = net.encode(leaf, sigma, class_labels)
            return self.discriminator.from_encoding(encoding, class_labels)

        log_ratio, gradient = self._gradient(x, logits)
        denoised = net.decode(encoding if _differentiable(x) else encoding.detach()).to(x.dtype)
        gradient, log_ratio = _where(guided, gradient, log_ratio)
        return denoised, self._evaluated(gradient, log_ratio, sigma, step, order)

    def _in_window(self, sigma: Tensor, batch: int) -> Tensor:
        """Boolean [N]: whose VP time is in [time_min, time_max]."""
        return vp.in_window(sigma, self.time_min, self.time_max).expand(batch)

    def _evaluates(self, step: int, order: int) -> bool:
        """Whether this stage asks the discriminator, if it is in the window."""
        return bool(self.weights[order - 1]) and step % self.every == 0

    def _gradient(self, x: Tensor, logits) -> tuple[Tensor, Tensor]:
        """(log ratio [N], its gradient like x) of a function of x; works under torch.no_grad."""
        twice = _differentiable(x)
        with torch.enable_grad():
            leaf = x if twice else x.detach().requires_grad_()
            log_ratio = clipped(logits(leaf), self.clip)
            (gradient,) = torch.autograd.grad(log_ratio.sum(), leaf, create_graph=twice)
        return log_ratio.detach(), gradient

    def _evaluated(
        self, gradient: Tensor, log_ratio: Tensor, sigma: Tensor, step: int, order: int
    ) -> Tensor:
        """The correction by what was just evaluated."""
        if self.every > 1:
            self._kept = gradient, log_ratio, sigma
        return self._scaled(gradient, log_ratio, per_image(sigma, gradient) ** 2, step, order)

    def _between(self, guided: Tensor, sigma: Tensor, step: int, order: int) -> Tensor | None:
        """The correction by what was evaluated last."""
        share = BETWEEN[self.between]
        if share is None or self._kept is None:
            return None
        gradient, log_ratio, last = self._kept
        change = per_image(share(sigma) / share(last), gradient)
        scale = per_image(last, gradient) ** 2 * change
        return self._scaled(*_where(guided, gradient, log_ratio), scale, step, order)

    def _scaled(
        self, gradient: Tensor, log_ratio: Tensor, scale: Tensor, step: int, order: int
    ) -> Tensor:
        self._remember(log_ratio, order)
        weight = torch.full_like(log_ratio, self.weights[order - 1])
        if self.boosting is not None and order == 1 and step % self.boosting.factor_period == 0:
            weight = torch.where(log_ratio < 0, weight * self.boosting.factor, weight)
        return per_image(weight, gradient) * scale * gradient

    def _remember(self, log_ratio: Tensor, order: int) -> None:
        if order == 1:
            self.last_log_ratio = log_ratio


class DifferenceGuidance(DiscriminatorGuidance):
    """The same by a `ScoreDifference`, in place of the gradient: no backward pass, and no log
    ratio, so that there is no boosting and no clip."""

    def __init__(
        self,
        difference: ScoreDifference,
        weights: tuple[float, float] = (2.0, 0.0),
        time_min: float = 0.01,
        time_max: float = 1.0,
        every: int = 1,
        between: str = "rescale",
    ):
        super().__init__(difference, weights, time_min, time_max, every=every, between=between)

    def log_ratio(self, x: Tensor, sigma: Tensor, class_labels: Tensor | None = None) -> Tensor:
        raise ValueError("a difference of scores has no log ratio; give a discriminator")

    def _gradient(self, x: Tensor, difference) -> tuple[Tensor, Tensor]:
        with torch.set_grad_enabled(_differentiable(x)):
            found = difference(x).to(x.dtype)
        return torch.full([len(x)], math.inf, device=x.device), found


class Autoguidance(Guidance):
    """Guides away from the prediction of a weaker network: D = w D_main + (1 - w) D_guide.

    Karras et al. 2024, "Guiding a diffusion model with a bad version of itself".

    guide  denoiser(x, sigma, class_labels) of the same images: smaller, or trained for less time
    scale  w; 1 leaves the main network alone
    """

    def __init__(self, guide: Callable, scale: float):
        if not math.isfinite(scale):
            raise ValueError(f"the scale of autoguidance is {scale}; give a finite number")
        self.guide, self.scale = guide, scale

    def denoise(self, net, x, sigma, class_labels, step, order):
        main, guide = (one(x, sigma, class_labels).to(x.dtype) for one in (net, self.guide))
        return self.scale * main + (1 - self.scale) * guide


def _where(guided: Tensor, gradient: Tensor, log_ratio: Tensor) -> tuple[Tensor, Tensor]:
    """The same for guided samples; gradient 0 and log ratio inf for the others."""
    inside = per_image(guided, gradient).bool()
    return torch.where(inside, gradient, 0.0), torch.where(guided, log_ratio, math.inf)


def _differentiable(x: Tensor) -> bool:
    """Whether a caller will ask for gradients of results computed from x."""
    return x.requires_grad and torch.is_grad_enabled()
