"""What an image costs: evaluations of each network, and multiply-adds, counted on real calls."""

from collections import Counter
from collections.abc import Iterator
from contextlib import ExitStack, contextmanager

from torch.utils.flop_counter import FlopCounterMode

from dg.discriminator import Discriminator, LogRatio
from dg.guidance import Autoguidance, DiscriminatorGuidance
from dg.models.generative_model import GenerativeModel
from dg.precision import autocast
from dg.samplers.constants import RejectionSampling
from dg.samplers.rejection import rejection_sampler
from dg.sampling import ScoreModel, as_model, draw_images
from edm.guidance import Guidance, GuidanceSum, WrappedGuidance

SEEDS = range(4)
NETWORK, GUIDE, FORWARD, BACKWARD = COUNTED = (
    "network",
    "guide",
    "discriminator forward",
    "discriminator backward",
)


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

    An evaluation of an ensemble, and of its extractor, counts once. Multiply-adds are half of the
    operations that torch's counter tells of matrix products and convolutions. Rejection is measured
    on calls of a single image, so that no call is filled up.
    """
    model, found = as_model(net), Counter()
    with counted(model, guidance, found) as counting, FlopCounterMode(display=False) as operations:
        how = (seeds, sampling, counting, class_idx, device, precision)
        if isinstance(sampling, RejectionSampling):
            _reject(model, *how)
        else:
            draw_images(net, *how)
    return {
        "images": len(seeds),
        "evaluations per image": {name: found[name] / len(seeds) for name in COUNTED},
        "multiply-adds per image": operations.get_total_flops() / 2 / len(seeds),
    }


def _reject(model, seeds, sampling, guidance, class_idx, device, precision) -> None:
    with autocast(precision, device):
        for _ in rejection_sampler(
            model.net, seeds, model.log_ratio, sampling, guidance, class_idx, 1, device
        ):
            pass


@contextmanager
def counted(
    model: GenerativeModel, guidance: Guidance | None, found: Counter
) -> Iterator[Guidance]:
    """Within it, rows that networks evaluate are added to `found`; yields the guidance to sample
    with."""
    discriminators = dict.fromkeys(_discriminators(model, guidance))
    with ExitStack() as hooks:

        def watch(network, note):
            hooks.callback(network.register_forward_hook(note).remove)

        def seen_by_head(head, inputs, logits):
            found[FORWARD] += len(logits)
            if logits.requires_grad:
                logits.register_hook(lambda gradient: found.update({BACKWARD: len(gradient)}))

        def seen_by_guide(guide, inputs, denoised):
            found[GUIDE] += len(denoised)

        for discriminator in discriminators:
            watch(discriminator.heads[0], seen_by_head)
        for term in _terms(guidance):
            if isinstance(term, Autoguidance):
                watch(term.guide, seen_by_guide)
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
