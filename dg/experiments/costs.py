"""What a stage will cost, before it is run: rough figures, for deciding whether to start it."""

from dataclasses import dataclass

# The paper reports about one A100-hour for the 50,000 generated CIFAR-10 images of its discriminator, 35 evaluations each,
# by a network of 55.7 million parameters, and about ten minutes for the discriminator (50,000 pairs, 60 epochs).
EVALUATIONS_PER_GPU_HOUR = 50_000 * 35
REFERENCE_PARAMETERS, REFERENCE_PIXELS = 55.7e6, 32 * 32
GUIDED_STEP = 1.62  # times an unguided one: measured on a CPU with the authors' code and classifier
PAIRS_PER_GPU_HOUR = 6 * 50_000 * 60


@dataclass(frozen=True)
class Cost:
    """Images generated, evaluations of the score network, hours on an A100, bytes on the disk; 0 where not counted."""

    images: int = 0
    evaluations: int = 0
    gpu_hours: float = 0.0
    bytes: int = 0

    def __add__(self, other):
        return Cost(
            self.images + other.images,
            self.evaluations + other.evaluations,
            self.gpu_hours + other.gpu_hours,
            self.bytes + other.bytes,
        )


def generation_cost(world, images: int, guided: bool = False, num_steps: int | None = None) -> Cost:
    """Of generating `images` images."""
    steps = num_steps or world.sampling.num_steps
    evaluations = images * (2 * steps - 1)
    hours = (
        evaluations
        / EVALUATIONS_PER_GPU_HOUR
        * _relative_size(world)
        * (GUIDED_STEP if guided else 1)
    )
    return Cost(images, evaluations, hours, images * _values(world))


def likelihood_cost(world) -> Cost:
    """Of the likelihood of test images: two evaluations a step, each with a backward pass."""
    evaluations = 2 * world.nll_images * world.nll_steps
    return Cost(
        evaluations=evaluations,
        gpu_hours=3 * evaluations / EVALUATIONS_PER_GPU_HOUR * _relative_size(world),
    )


def training_cost(world, epochs: int | None = None) -> Cost:
    """Of a discriminator of so many epochs, or of the score network where it is trained here (three evaluations a step)."""
    if epochs is not None:
        return Cost(gpu_hours=world.num_data * epochs / PAIRS_PER_GPU_HOUR * _relative_size(world))
    if world.network:
        return Cost(bytes=223_000_000)
    _, settings = world.score
    evaluations = 3 * settings.steps * settings.batch_size
    return Cost(
        evaluations=evaluations,
        gpu_hours=evaluations / EVALUATIONS_PER_GPU_HOUR * _relative_size(world),
    )


def _resolution(world) -> int:
    sizes = {"mnist": 28, "digits": 8}
    return sizes.get(world.data, 32) // world.pool


def _values(world) -> int:
    return _resolution(world) ** 2 * (1 if world.data in ("mnist", "digits") else 3)


def _relative_size(world) -> float:
    """Work of one evaluation relative to the CIFAR-10 network: by width squared and number of pixels."""
    pixels = _resolution(world) ** 2 / REFERENCE_PIXELS
    if world.network:
        return pixels
    network, _ = world.score
    widths = [
        network.get("model_channels", 128) * m for m in network.get("channel_mult", [2, 2, 2])
    ]
    blocks = network.get("num_blocks", 4)
    return pixels * blocks * sum(width**2 for width in widths) / (4 * 3 * 256**2)
