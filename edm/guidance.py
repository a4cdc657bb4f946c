"""The interface through which guidance changes a sampler, and sums of guidances."""

from collections.abc import Iterator
from copy import copy
from types import FunctionType

import torch
from torch import Tensor, nn

from edm.fingerprints import fingerprint, tensor_fingerprint
from edm.parametrisations import changed, noise_level, per_image


class Guidance:
    """Gives a sampler the denoised image. This base class returns the network's own.

    A new guidance overrides `correction`. One that needs the network's denoised image overrides
    `denoise`. One that changes the noise of single samples overrides `churn`. State between steps
    belongs to one batch: `begin` resets it, and its name begins with an underscore. `a + b` adds
    both corrections, see `GuidanceSum`.

    needs_step    whether it depends on the sampler's step or churn; samplers without them refuse it
    needs_order   whether it treats the two stages of a step differently; solvers without stages
                  refuse it
    uses_network  whether `denoise` alone knows the correction, as where it is overridden
    """

    needs_step: bool = False
    needs_order: bool = False
    uses_network: bool = False

    def __init_subclass__(cls, **kwargs):
        super().__init_subclass__(**kwargs)
        if "denoise" in vars(cls) and "uses_network" not in vars(cls) and not cls.uses_network:
            cls.uses_network = True

    def begin(self, x: Tensor) -> None:
        """Called once per batch with the initial state x [N, C, H, W], before the first step."""

    def copied(self) -> "Guidance":
        """The same guidance with a state of its own, for a batch that is drawn beside others. The
        networks are shared."""
        return copy(self)

    def churn(
        self, S_churn: float | Tensor, S_noise: float | Tensor, step: int
    ) -> tuple[float | Tensor, float | Tensor]:
        """Stochasticity of one step: (S_churn, S_noise), or a tensor [N] each, for each sample."""
        return S_churn, S_noise

    def correction(
        self, x: Tensor, sigma: Tensor, class_labels: Tensor | None, step: int, order: int
    ) -> Tensor | None:
        """Return the term to add to the denoised image, like x in image units, or None for nothing.

        x             [N, C, H, W]  noisy images
        sigma         [] or [N]     their noise level
        class_labels  [N, K]        one-hot, or None
        step, order                 index of the sampling step; 1 = predictor (Euler), 2 = corrector
        """
        return None

    def denoise(
        self, net, x: Tensor, sigma: Tensor, class_labels: Tensor | None, step: int, order: int
    ) -> Tensor:
        """Denoised images in the dtype of x: `net(x, sigma, class_labels)` plus `correction`."""
        denoised = net(x, sigma, class_labels).to(x.dtype)
        return added(denoised, self.correction(x, sigma, class_labels, step, order))

    def parts(
        self, net, x: Tensor, sigma: Tensor, class_labels: Tensor | None, step: int, order: int
    ) -> tuple[Tensor, Tensor | None]:
        """Return the parts of `denoise`: the network's own denoised images, and the term to add to
        them.

        One evaluation of the network. A guidance that needs the network's image is asked for its
        denoised image, and the network's own is subtracted.
        """
        denoised = net(x, sigma, class_labels).to(x.dtype)
        if not self.uses_network:
            return denoised, self.correction(x, sigma, class_labels, step, order)
        known = Evaluated(net, denoised, x, sigma, class_labels)
        return denoised, self.denoise(known, x, sigma, class_labels, step, order) - denoised

    def score(
        self,
        x: Tensor,
        sigma: Tensor | float | None = None,
        class_labels: Tensor | None = None,
        *,
        alpha_bar: Tensor | float | None = None,
        flow_time: Tensor | float | None = None,
        prediction_type: str = "score",
        net=None,
        step: int = 0,
        order: int = 1,
        sigma_data: float = 0.5,
    ) -> Tensor:
        """What it adds to the score of x, or to any other prediction of a network; zeros where it
        adds nothing.

        x             [N, C, H, W]  noisy images at the scale of their own process
        sigma         [] or [N]     noise level of images at EDM scale, x_0 + sigma z; or instead:
        alpha_bar     [] or [N]     of images at VP scale, sqrt(alpha_bar) x_0 + sqrt(1 - alpha_bar)
                                    z: a scheduler's alphas_cumprod[t]
        flow_time     [] or [N]     of a flow, (1 - t) x_0 + t z
        class_labels  [N, K]        one-hot, or [N] class numbers, or None
        prediction_type  one of `edm.PREDICTIONS`: "score", "denoised" (or "sample"), "epsilon",
                         "v_prediction", "flow_prediction", or "edm", EDM's raw output, which
                         depends on sigma_data
        net           denoiser(x, sigma, class_labels) at EDM scale; only a guidance that depends on
                      it needs it
        returns       like x

        Add the result to what the network predicts at x. ValueError for an unknown type, a level
        that is not given once, and a missing net.
        """
        sigma, scale = noise_level(sigma, alpha_bar, flow_time, x.device)
        images = x if scale is None else x / per_image(scale, x)
        if net is not None:
            _, correction = self.parts(net, images, sigma, class_labels, step, order)
        elif self.uses_network:
            raise ValueError(
                "the guidance depends on the network's denoised image; pass the network as net"
            )
        else:
            correction = self.correction(images, sigma, class_labels, step, order)
        if correction is None:
            correction = torch.zeros_like(x)
        return changed(correction, sigma, scale, prediction_type, sigma_data)

    def shares_pass(self, net) -> bool:
        """Whether `parts` takes something for itself from a pass through this very network."""
        return False

    def on_features(self, encoder: nn.Module) -> "Guidance | None":
        """The same guidance, asked with an encoder's features in place of the images: its
        `correction` is like the features. None where it needs the images."""
        return None

    def describe(self) -> dict:
        """Plain data on which the images depend, by which a store of samples knows its guidance.

        Here the qualified name of the class and its public attributes: numbers, strings, None,
        tuples and lists of these, other guidances; networks and tensors by fingerprint. ValueError
        for an attribute of another kind: override this method.
        """
        name = f"{type(self).__module__}.{type(self).__qualname__}"
        return {"class": name} | {
            attribute: _described(value, f"{name}.{attribute}")
            for attribute, value in self._public_attributes()
        }

    def networks(self) -> list[nn.Module]:
        """The networks that it evaluates, to be moved to a device and compiled."""
        return [value for value in vars(self).values() if isinstance(value, nn.Module)]

    def __add__(self, other: "Guidance") -> "GuidanceSum":
        if not isinstance(other, Guidance):
            return NotImplemented
        return GuidanceSum(self, other)

    def _public_attributes(self) -> Iterator[tuple[str, object]]:
        """Yield (name, value) of its own and its class's public attributes, without methods and
        those of `Guidance`."""
        bases = [cls for cls in type(self).__mro__ if cls not in Guidance.__mro__]
        of_class = {name: value for cls in reversed(bases) for name, value in vars(cls).items()}
        skipped = {*vars(Guidance)} | {
            name
            for name, value in of_class.items()
            if isinstance(value, (property, staticmethod, classmethod, FunctionType))
        }
        for name, value in (of_class | vars(self)).items():
            if not name.startswith("_") and name not in skipped:
                yield name, value


class GuidanceSum(Guidance):
    """Guidances whose corrections are added to the network's denoised image, in the order given.

    `begin` is called in the same order; `churn` too, each with the result of the one before. The
    network is evaluated once. The pass is that of the first guidance which shares it, for example a
    discriminator on the network's own encoder; a second such discriminator takes an encoder pass of
    its own, which an ensemble does without.
    """

    def __init__(self, *terms: Guidance):
        self.terms: tuple[Guidance, ...] = tuple(
            part
            for term in terms
            for part in (term.terms if isinstance(term, GuidanceSum) else [term])
        )

    @property
    def needs_step(self) -> bool:
        return any(term.needs_step for term in self.terms)

    @property
    def needs_order(self) -> bool:
        return any(term.needs_order for term in self.terms)

    @property
    def uses_network(self) -> bool:
        return any(term.uses_network for term in self.terms)

    def copied(self):
        return GuidanceSum(*(term.copied() for term in self.terms))

    def begin(self, x):
        for term in self.terms:
            term.begin(x)

    def churn(self, S_churn, S_noise, step):
        for term in self.terms:
            S_churn, S_noise = term.churn(S_churn, S_noise, step)
        return S_churn, S_noise

    def correction(self, x, sigma, class_labels, step, order):
        return _total(term.correction(x, sigma, class_labels, step, order) for term in self.terms)

    def denoise(self, net, x, sigma, class_labels, step, order):
        return added(*self.parts(net, x, sigma, class_labels, step, order))

    def parts(self, net, x, sigma, class_labels, step, order):
        first = next((term for term in self.terms if term.shares_pass(net)), self.terms[0])
        denoised, own = first.parts(net, x, sigma, class_labels, step, order)
        known = Evaluated(net, denoised, x, sigma, class_labels)
        return denoised, _total(
            own if term is first else term.parts(known, x, sigma, class_labels, step, order)[1]
            for term in self.terms
        )

    def shares_pass(self, net):
        return any(term.shares_pass(net) for term in self.terms)

    def describe(self):
        return {"sum": [term.describe() for term in self.terms]}

    def networks(self):
        return [network for term in self.terms for network in term.networks()]


class WrappedGuidance(Guidance):
    """Base class for wrappers of another guidance (None: the network alone); this one changes
    nothing."""

    def __init__(self, guidance: Guidance | None = None):
        self.guidance = guidance or Guidance()

    @property
    def needs_step(self) -> bool:
        return self.guidance.needs_step

    @property
    def needs_order(self) -> bool:
        return self.guidance.needs_order

    @property
    def uses_network(self) -> bool:
        return self.guidance.uses_network

    def copied(self):
        wrapper = copy(self)
        wrapper.guidance = self.guidance.copied()
        return wrapper

    def begin(self, x):
        self.guidance.begin(x)

    def churn(self, S_churn, S_noise, step):
        return self.guidance.churn(S_churn, S_noise, step)

    def correction(self, x, sigma, class_labels, step, order):
        return self.guidance.correction(x, sigma, class_labels, step, order)

    def denoise(self, net, x, sigma, class_labels, step, order):
        return self.guidance.denoise(net, x, sigma, class_labels, step, order)

    def parts(self, net, x, sigma, class_labels, step, order):
        return self.guidance.parts(net, x, sigma, class_labels, step, order)

    def shares_pass(self, net):
        return self.guidance.shares_pass(net)

    def on_features(self, encoder):
        return self.guidance.on_features(encoder)

    def describe(self):
        return self.guidance.describe()

    def networks(self):
        return self.guidance.networks()


class Evaluated:
    """A network whose denoised images of one batch are known; others are evaluated."""

    def __init__(self, net, denoised: Tensor, x: Tensor, sigma: Tensor, class_labels):
        self.net, self.denoised, self.inputs = net, denoised, (x, sigma, class_labels)

    def __call__(self, x, sigma, class_labels=None, **kwargs):
        same = all(
            new is old for new, old in zip((x, sigma, class_labels), self.inputs, strict=True)
        )
        return self.denoised if same and not kwargs else self.net(x, sigma, class_labels, **kwargs)

    def __getattr__(self, name):
        """All other attributes are the network's."""
        return getattr(self.net, name)


def added(denoised: Tensor, correction: Tensor | None) -> Tensor:
    """Denoised images after a correction, or as they are where there is none."""
    return denoised if correction is None else denoised + correction


def _total(corrections) -> Tensor | None:
    """The sum in the order given; None where there is nothing to add."""
    total = None
    for correction in corrections:
        if correction is not None:
            total = correction if total is None else total + correction
    return total


def _described(value, name: str):
    if value is None or isinstance(value, (bool, int, float, str)):
        return value
    if isinstance(value, (tuple, list)):
        return [_described(part, name) for part in value]
    if isinstance(value, Guidance):
        return value.describe()
    if isinstance(value, nn.Module):
        return fingerprint(value)
    if isinstance(value, Tensor):
        return tensor_fingerprint(value)
    raise ValueError(
        f"{name} is a {type(value).__name__}, which describes no guidance; override `describe`, "
        "or begin its name with an underscore if images do not depend on it"
    )
