"""What a stage will cost, before it is run: rough figures, for deciding whether to start it."""

from typing import NamedTuple

from dg.runtime.catalogue import CATALOGUE

# The paper reports about one A100-hour for the 50,000 generated CIFAR-10 images of its
# discriminator, 35 evaluations each, by a network of 55.7 million parameters, and about ten minutes
# for the discriminator (50,000 pairs, 60 epochs).
EVALUATIONS_PER_GPU_HOUR = 50_000 * 35
REFERENCE_PIXELS = 32 * 32
GUIDED_STEP = 1.62  # times an unguided one: measured on a CPU with the authors' code and classifier
PAIRS_PER_GPU_HOUR = 6 * 50_000 * 60
REJECTION = 1.5  # times the evaluations of a pass without rejection: a guess


class Cost(NamedTuple):
    """Images, evaluations of networks, hours on an A100, bytes on the disk; 0: not counted."""

    images: int = 0
    evaluations: int = 0
    gpu_hours: float = 0.0
    bytes: int = 0

    def __add__(self, other):
        return Cost(*(mine + more for mine, more in zip(self, other, strict=True)))


def generation_cost(
    setting,
    images: int,
    guided: bool = False,
    model: str = "score",
    each: float | None = None,
) -> Cost:
    """Of generating `images` images.

    each  evaluations of one image, None: the model's
    """
    evaluations = images * round(each or setting.models[model].num_evaluations())
    hours = _hours(setting, model, evaluations) * (GUIDED_STEP if guided else 1)
    channels = 1 if (setting.data or "").startswith(("mnist", "digits")) else 3
    return Cost(images, evaluations, hours, images * channels * _resolution(setting) ** 2)


def likelihood_cost(setting, model: str = "score") -> Cost:
    """Of the likelihood of test images: two evaluations a step, each with a backward pass."""
    evaluations = 2 * setting.nll_images * setting.nll_steps
    return Cost(0, evaluations, _hours(setting, model, 3 * evaluations))


def bounds_cost(setting, model: str, snapshots: int) -> Cost:
    """Of the bounds of snapshots, on training and on test images."""
    each = (setting.bound_terms or 0) + 1 if setting.models[model].kind == "ddpm" else 1
    evaluations = 2 * setting.bound_images * snapshots * each
    return Cost(0, evaluations, _hours(setting, model, evaluations))


def training_cost(setting, training) -> Cost:
    """Of a discriminator, whose epochs are passes over the larger set, or of the one it is like."""
    training = training.like or training
    real = training.num_real or setting.num_real or setting.num_data
    pairs = max(real, training.num_fake or setting.num_data) * training.settings.epochs
    pairs /= training.part[1] if training.part else 1
    relative = _relative_size(setting, training.model)
    return Cost(gpu_hours=pairs / PAIRS_PER_GPU_HOUR * relative)


def model_cost(setting, name: str = "score") -> Cost:
    """Of a model: its download, or its training with three evaluations a step."""
    model = setting.models[name]
    if model.training is None:
        return Cost(bytes=223_000_000 if model.published in CATALOGUE else 0)
    if model.published:
        return Cost()
    _, settings = model.training
    before = setting.models[model.continues].training[1].steps if model.continues else 0
    evaluations = 3 * (settings.steps - before) * settings.batch_size
    return Cost(0, evaluations, _hours(setting, name, evaluations))


def tuning_cost(setting, evaluations: int) -> Cost:
    """Of training the score network on."""
    return Cost(0, evaluations, _hours(setting, "score", evaluations))


def _hours(setting, model: str, evaluations: int) -> float:
    return evaluations / EVALUATIONS_PER_GPU_HOUR * _relative_size(setting, model)


def _resolution(setting) -> int:
    sizes = {"mnist": 28, "mnist-small": 28, "mnist-14": 14, "mnist-small-14": 14, "digits": 8}
    return sizes.get(setting.data, setting.resolution) // setting.pool


def _relative_size(setting, name: str) -> float:
    """Work of one evaluation relative to the CIFAR-10 network, by squared width and pixels."""
    pixels, model = _resolution(setting) ** 2 / REFERENCE_PIXELS, setting.models[name]
    if model.training is None:
        return pixels
    network, _ = model.training
    width = network.get("model_channels", network.get("width", 128))
    widths = [width * multiple for multiple in network.get("channel_mult", [2, 2, 2])]
    blocks = network.get("num_blocks", network.get("num_res_blocks", 4))
    return pixels * blocks * sum(width**2 for width in widths) / (4 * 3 * 256**2)
