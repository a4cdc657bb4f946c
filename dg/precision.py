"""How precisely networks compute while sampling. The sampler's own state is float64 in any case.

Half precision rounds every activation, by 2^-9 in bfloat16 and by 2^-12 in float16. Whether that
can be seen depends on the noise level. Where it is decided what an image will show, a few images
are tipped over to other ones, and differ everywhere; above, the rounding is drowned by the noise,
and below, it stays the rounding error that it is. So bfloat16 is used outside of that range only,
with float32 in it: 8 of the 35 evaluations of EDM's 18 steps.
"""

import os
import shutil
from collections.abc import Iterable
from contextlib import nullcontext
from dataclasses import replace

import torch
from torch import nn

import edm
from dg.runtime.hardware import has_bfloat16
from edm.guidance import Guidance, WrappedGuidance

PRECISIONS = ("float32", "bfloat16", "float16")
DECIDING = (0.5, 4.0)  # noise levels that bfloat16 is too coarse for
MIN_STEPS = 9  # with fewer, steps are large, and so are their rounding errors


def candidates(net, device, num_steps: int = 18) -> tuple[str, ...]:
    """The precisions whose images are within 2 levels of 255 of float32's for 99.9% of their
    values, float32 first; which is fastest, `dg.runtime.self_benchmark` measures.

    float16 on GPUs; bfloat16 on CPUs that have instructions for it. Both for EDM's networks, and
    not for few sampling steps. How far images are off: docs/speed.md; float16 has been measured on
    a CPU alone.
    """
    if not isinstance(net, edm.Preconditioner) or num_steps < MIN_STEPS:
        return ("float32",)
    if torch.device(device).type == "cuda":
        return ("float32", "float16")
    return ("float32", "bfloat16") if has_bfloat16(device) else ("float32",)


def computable(settings, device):
    """Settings of a training; with float32 in place of bfloat16 on a device that lacks
    instructions for it."""
    slow = settings.precision == "bfloat16" and not has_bfloat16(device)
    return replace(settings, precision="float32") if slow else settings


def autocast(precision: str, device) -> torch.autocast:
    """Within it, networks on `device` compute so. ValueError for an unknown precision."""
    if precision not in PRECISIONS:
        raise ValueError(f"precision is {precision!r}; use {', '.join(PRECISIONS)}")
    return torch.autocast(
        torch.device(device).type, getattr(torch, precision), enabled=precision != "float32"
    )


class MixedPrecisionGuidance(WrappedGuidance):
    """Computes the noise levels `exact` in float32, whatever `autocast` is around it."""

    def __init__(self, guidance: Guidance | None = None, exact: tuple[float, float] = DECIDING):
        super().__init__(guidance)
        self.exact = exact

    def correction(self, x, sigma, class_labels, step, order):
        with self._precision(x, sigma):
            return self.guidance.correction(x, sigma, class_labels, step, order)

    def denoise(self, net, x, sigma, class_labels, step, order):
        with self._precision(x, sigma):
            return self.guidance.denoise(net, x, sigma, class_labels, step, order)

    def parts(self, net, x, sigma, class_labels, step, order):
        with self._precision(x, sigma):
            return self.guidance.parts(net, x, sigma, class_labels, step, order)

    def on_features(self, encoder):
        """None: the encoder's own pass would keep the precision that is around it."""

    def _precision(self, x, sigma):
        """Within it, networks compute in float32 if one of the noise levels is to be exact."""
        low, high = self.exact
        exact = bool(((sigma >= low) & (sigma <= high)).any())
        return torch.autocast(x.device.type, enabled=False) if exact else nullcontext()


def compile_networks(networks: Iterable[nn.Module]) -> None:
    """Have torch.compile translate the networks at their first use, in place; on GPUs, to graphs.

    networks  for example those of a `GenerativeModel` and of a guidance; each is translated once

    Images change by the rounding of fused operations. ValueError where there is no C++ compiler,
    which it needs.
    """
    if shutil.which(os.environ.get("CXX", "g++")) is None:
        raise ValueError(
            "torch.compile needs a C++ compiler, and there is no g++ here; install one"
        )
    networks = list(dict.fromkeys(networks))
    on_gpu = any(parameter.is_cuda for network in networks for parameter in network.parameters())
    for network in networks:
        network.compile(mode="reduce-overhead" if on_gpu else "default")
