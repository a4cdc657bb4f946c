"""What an image costs: evaluations of each network, and multiply-adds, counted on real calls."""

import copy
from collections import Counter
from collections.abc import Iterator
from contextlib import ExitStack, contextmanager

import torch
from torch import Tensor
from torch.utils._python_dispatch import TorchDispatchMode
from torch.utils.flop_counter import flop_registry
from torch.utils.module_tracker import ModuleTracker

from dg.discriminator import Discriminator, LogRatio, ScoreDifference
from dg.guidance import Autoguidance, DiscriminatorGuidance
from dg.losses import LOSSES, NoisyBatch
from dg.models.generative_model import GenerativeModel
from dg.precision import autocast
from dg.recipes import PRESETS, DiscriminatorTraining
from dg.samplers.constants import RejectionSampling
from dg.samplers.rejection import rejection_sampler
from dg.sampling import ScoreModel, as_model, draw_images
from dg.training import Trainer
from edm.guidance import Guidance, GuidanceSum, WrappedGuidance

SEEDS = range(4)
NETWORK, GUIDE, FORWARD, BACKWARD = COUNTED = (
    "network",
    "guide",
    "discriminator forward",
    "discriminator backward",
)
# Formulas of torch's counter, which knows no attention of CPUs. That counter itself refuses to
# differentiate by the input of a module.
_ATEN = torch.ops.aten
_ATTENTION = _ATEN._scaled_dot_product_efficient_attention
_ATTENTION_BACKWARD = _ATEN._scaled_dot_product_efficient_attention_backward
OPERATIONS = flop_registry | {
    _ATEN._scaled_dot_product_flash_attention_for_cpu: flop_registry[_ATTENTION],
    _ATEN._scaled_dot_product_flash_attention_for_cpu_backward: flop_registry[_ATTENTION_BACKWARD],
}


def measured_cost(
    net,
    sampling,
    guidance: Guidance | None = None,
    class_idx: int | None = None,
    device="cpu",
    precision: str = "float32",
    seeds=SEEDS,
) -> dict:
    """Evaluations and multiply-adds per image, the mean over the images of a few seeds.

    An evaluation of an ensemble, and of its extractor, counts once. On the network's own encoder a
    discriminator's forward pass is that of its head, and the encoder's is the network's; likewise
    where the classifier's pass is shared. Rejection is measured on calls of a single image, so that
    no call is filled up.
    """
    model, found, operations = as_model(net), Counter(), MultiplyAdds()
    with counted(model, guidance, found, operations) as counting, operations:
        how = (seeds, sampling, counting, class_idx, device, precision)
        if isinstance(sampling, RejectionSampling):
            _reject(model, *how)
        else:
            draw_images(net, *how)
    return {
        "images": len(seeds),
        "evaluations per image": {name: found[name] / len(seeds) for name in COUNTED},
        "multiply-adds per image": sum(operations.of.values()) / len(seeds),
        "of these": {name: operations.of[name] / len(seeds) for name in COUNTED},
    }


@torch.no_grad()
def ratio_multiply_adds(discriminator: Discriminator, images: Tensor) -> float:
    """Multiply-adds of a log ratio, per image of a batch [N, C, H, W]."""
    with MultiplyAdds() as operations:
        discriminator(images, *_noise_and_labels(discriminator, images))
    return sum(operations.of.values()) / len(images)


def training_multiply_adds(
    discriminator: Discriminator | ScoreDifference,
    images: Tensor,
    settings: DiscriminatorTraining = PRESETS["default"],
    net=None,
) -> float:
    """Multiply-adds of a training step by the loss and the adapter of the settings, per image of a
    batch [N, C, H, W]. A copy is counted: the discriminator and the score network `net`, which
    some losses take, stay as they are."""
    discriminator, net = copy.deepcopy((discriminator, net))  # at once: they may share the network
    trainer = Trainer(discriminator, settings, net)
    sigma, labels = _noise_and_labels(discriminator, images)
    batch = NoisyBatch(images, images, sigma, labels, torch.ones_like(sigma))
    with MultiplyAdds() as operations, torch.enable_grad():
        loss, _ = LOSSES[settings.loss](discriminator, batch, settings.penalty, trainer.net)
        loss.backward()
    return sum(operations.of.values()) / len(images)


def _noise_and_labels(discriminator, images: Tensor) -> tuple[Tensor, Tensor | None]:
    """Noise level 1 for every image, and its class where the discriminator takes one."""
    sigma = torch.ones(len(images), device=images.device)
    if not discriminator.conditional:
        return sigma, None
    one = torch.eye(discriminator.heads[0].num_classes, device=images.device)[:1]
    return sigma, one.expand(len(images), -1)


class MultiplyAdds(TorchDispatchMode):
    """Counts, within it, multiply-adds of matrix products, convolutions and attention.

    of    their number by part: BACKWARD in backward passes, else the part that is under way
    part  the part that is under way
    """

    def __init__(self):
        super().__init__()
        self.of, self.part, self._tracker = Counter(), NETWORK, ModuleTracker()

    def __torch_dispatch__(self, func, types, args=(), kwargs=None):
        out = func(*args, **(kwargs or {}))
        if (operations := OPERATIONS.get(func._overloadpacket)) is not None:
            part = BACKWARD if self._tracker.is_bw else self.part
            self.of[part] += operations(*args, **(kwargs or {}), out_val=out) / 2
        return out


def _reject(model, seeds, sampling, guidance, class_idx, device, precision) -> None:
    with autocast(precision, device):
        for _ in rejection_sampler(
            model.net, seeds, model.log_ratio, sampling, guidance, class_idx, 1, device
        ):
            pass


@contextmanager
def counted(
    model: GenerativeModel,
    guidance: Guidance | None,
    found: Counter,
    operations: "MultiplyAdds",
) -> Iterator[Guidance]:
    """Within it, rows that networks evaluate are added to `found`, and `operations` knows which
    network is under way; yields the guidance to sample with."""
    discriminators = dict.fromkeys(_discriminators(model, guidance))
    with ExitStack() as hooks:

        def watch(network, part, note=lambda *called: None):
            def begin(*called):
                operations.part = part

            def end(*called):
                operations.part = NETWORK
                note(*called)

            hooks.callback(network.register_forward_pre_hook(begin).remove)
            hooks.callback(network.register_forward_hook(end).remove)

        def seen_by_head(head, inputs, logits):
            found[FORWARD] += len(logits)
            if logits.requires_grad:
                logits.register_hook(lambda gradient: found.update({BACKWARD: len(gradient)}))

        def seen_by_guide(guide, inputs, denoised):
            found[GUIDE] += len(denoised)

        for discriminator in discriminators:
            first = discriminator.heads[0]
            for network in discriminator.networks():
                watch(network, FORWARD, *[seen_by_head] * (network is first))
        for term in _terms(guidance):
            if isinstance(term, Autoguidance):
                watch(term.guide, GUIDE, seen_by_guide)
        yield _Counting(guidance, found)


class _Counting(WrappedGuidance):
    """Counts the images that the sampler asks for, each an evaluation of the network."""

    def __init__(self, guidance: Guidance | None, found: Counter):
        super().__init__(guidance)
        self._found = found

    def denoise(self, net, x, sigma, class_labels, step, order):
        self._found[NETWORK] += len(x)
        return super().denoise(net, x, sigma, class_labels, step, order)


def _terms(guidance: Guidance | None) -> Iterator[Guidance]:
    """The guidances that a guidance is made of."""
    if isinstance(guidance, GuidanceSum):
        for term in guidance.terms:
            yield from _terms(term)
    elif isinstance(guidance, WrappedGuidance):
        yield from _terms(guidance.guidance)
    elif guidance is not None:
        yield guidance


def _discriminators(model, guidance) -> Iterator[Discriminator]:
    for term in _terms(guidance):
        if isinstance(term, DiscriminatorGuidance):
            yield term.discriminator
    if isinstance(model, ScoreModel) and isinstance(model.log_ratio, LogRatio):
        yield model.log_ratio.discriminator
