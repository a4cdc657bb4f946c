"""Classifier guidance of discrete diffusion: a classifier of noisy images leads samples to their
class.

Dhariwal & Nichol 2021, section 4: algorithm 1 adds the gradient to the mean of an ancestral step,
algorithm 2 to the score in a DDIM step. `GaussianDiffusion` does both with a `cond_fn`; here are
such functions. ADM-G at 250 steps:

    steer = classifier_gradient(load_encoder("256x256_classifier.pt"), scale=1.0)
    create_diffusion("linear", 1000, "250").p_sample_loop(unet, noise, cond_fn=steer,
    model_kwargs={"y": y})

ADM-G++ adds a discriminator's gradient, `sum_of(steer, dg.cond_fn(discriminator))`. Its features
are those of the same classifier, 512 channels of 8x8 at 256 pixels: there is nothing else to train,
and one on images shrunk to 64 pixels would not see the fine detail that distinguishes good samples.
"""

from collections.abc import Callable, Sequence

import torch
from torch import Tensor, nn

from dg.adapters import LAST_TIMESTEP
from guided_diffusion import GaussianDiffusion

STEPS = LAST_TIMESTEP + 1  # timesteps that classifiers know


def classifier_gradient(
    classifier: nn.Module, scale: float = 1.0, time_scale: float = 1.0, of_features: bool = False
) -> Callable:
    """A `cond_fn(x, t, y)`: scale * grad_x log p(y | x, t), like x; freezes the classifier.

    classifier  an `EncoderUNetModel`, or a module that is called as one: noisy images float32 and
                time in [0, 1] -> logits
    scale       above 1 sharpens p(y | x), for better samples of fewer kinds; published: 1 at 64 and
                256 pixels, 0.5 at 128, 4 at 512, and 10 with the unconditional model of 256 pixels
    time_scale  time scale of the process. As in guided-diffusion, the classifier gets the network's
                timesteps: 1000 / T times those of a process of T steps that rescales them
    of_features  whether x are the classifier's features [N, F, h, w], of which its head alone is
                 differentiated

    x  [N, C, H, W]  noisy images at VP scale
    t  [N]           original timesteps; times time_scale they are in 0..999, which the classifier
                     gets back to the last bit
    y  [N]           class numbers

    ValueError without classes, and for a class, images or timesteps that the classifier does not
    know.
    """
    classifier.eval().requires_grad_(False)

    def gradient(x: Tensor, t: Tensor, y: Tensor | None = None, **kwargs) -> Tensor:
        if y is None:
            raise ValueError("classifier guidance needs classes; give class numbers y [N]")
        timesteps = t.to(torch.float64) * time_scale
        if timesteps.max() >= STEPS:
            raise ValueError(
                f"timestep {timesteps.max():g}, but classifiers know 0 to {LAST_TIMESTEP}; give "
                f"the time_scale {STEPS} / T of a process of T steps"
            )
        with torch.enable_grad():
            leaf = x.detach().to(torch.float32).requires_grad_()
            time = timesteps / LAST_TIMESTEP
            logits = classifier.logits(leaf) if of_features else classifier(leaf, time)
            if y.max() >= logits.shape[1]:
                raise ValueError(
                    f"class {int(y.max())}, but the classifier knows {logits.shape[1]} "
                    "classes, counted from 0; use another classifier"
                )
            log_p = logits.log_softmax(dim=1).gather(1, y[:, None])  # [N, 1]
            (result,) = torch.autograd.grad(log_p.sum(), leaf)
        return scale * result.to(x.dtype)

    return gradient


def through_encoder(encoder: nn.Module, cond_fns: Sequence[Callable]) -> Callable:
    """The `cond_fn` whose gradient is the sum of those of others on the features of one encoder, in
    one pass forth and back: the chain rule.

    encoder   an `EncoderUNetModel`; it gets x_t and the time t / 999
    cond_fns  called with features, float64 [N, F, h, w], in place of x
    """
    total = sum_of(*cond_fns)

    def gradient(x: Tensor, t: Tensor, **kwargs) -> Tensor:
        with torch.enable_grad():
            leaf = x.detach().to(torch.float32).requires_grad_()
            features = encoder(leaf, t.to(torch.float64) / LAST_TIMESTEP, feature=True)
            wanted = total(features.detach().to(torch.float64), t, **kwargs)
            (result,) = torch.autograd.grad(features, leaf, wanted.to(features.dtype))
        return result.to(x.dtype)

    return gradient


def check_classifier(classifier: nn.Module, model: nn.Module) -> None:
    """ValueError unless the classifier knows the images and classes of a model; one without classes
    takes any of them."""
    knows = classifier.in_channels, classifier.image_size, classifier.out_channels
    makes = model.img_channels, model.img_resolution, model.label_dim or classifier.out_channels
    if knows != makes:
        described = (
            "{} channels, {} pixels and {} classes".format(*values) for values in (knows, makes)
        )
        raise ValueError(
            f"the classifier knows {', but the network makes '.join(described)}; use another "
            "classifier"
        )


def check_timesteps(diffusion: GaussianDiffusion) -> None:
    """ValueError unless the network of a whole process gets the timesteps that classifiers know."""
    steps, scale = diffusion.num_steps, diffusion.schedule.time_scale
    if round(steps * scale) != STEPS:
        raise ValueError(
            f"classifiers know {STEPS} timesteps, but this process has {steps} and its "
            "network takes them unscaled; leave classifier guidance out"
        )


def sum_of(*cond_fns: Callable) -> Callable:
    """The `cond_fn` whose gradient is the sum of those of others, for classifier and discriminator
    guidance at once."""

    def gradient(x: Tensor, t: Tensor, **kwargs) -> Tensor:
        return sum(cond_fn(x, t, **kwargs) for cond_fn in cond_fns)

    return gradient
