"""Settings of the trainings, one class per kind of network, as plain data."""

from dataclasses import dataclass

PRECISIONS = ("float32", "bfloat16", "float16")


@dataclass(frozen=True)
class ScoreTraining:
    """How to train a score network; the number of images seen is steps * batch_size. Impossible
    values: ValueError."""

    steps: int = 1000
    batch_size: int = 64
    lr: float = 2e-3  # Adam's learning rate
    warmup: int = 3200  # images over which the learning rate rises linearly
    ema_halflife: int = 5000  # images in which the weight of an old network halves
    ema_rampup: float = (
        0.05  # at most this part of the images seen so far counts; 0 = no such bound
    )
    adam_eps: float = 1e-8
    # noise levels of EDM's preconditioning in training: ln(sigma) ~ N(P_mean, P_std^2)
    P_mean: float = -1.2
    P_std: float = 1.2
    flip: bool = False  # mirror half of the images, which the network then draws too
    augment: float = (
        0.0  # probability of EDM's augmentation; the network gets its labels and does not draw it
    )
    precision: str = "float32"  # or "bfloat16", "float16", by autocast
    seed: int = 0

    def __post_init__(self):
        if min(self.steps, self.batch_size) < 0 or self.batch_size < 1 or not self.lr > 0:
            raise ValueError(
                f"{self.steps} steps of {self.batch_size} images at learning rate {self.lr}: give "
                "positive numbers"
            )
        if not 0 <= self.augment <= 1:
            raise ValueError(f"augment is {self.augment}; give a probability from 0 to 1")
        _check_precision(self.precision)


@dataclass(frozen=True)
class NoisyClassifierTraining:
    """How to build and train the noise-aware classifier."""

    model_channels: int = 32  # a multiple of 32
    num_res_blocks: int = 1
    channel_mult: tuple[int, ...] = (1, 2, 4)
    attention_resolutions: tuple[int, ...] = (7, 8)
    steps: int = 1000
    batch_size: int = 128
    lr: float = 1e-3  # highest value of a one-cycle schedule
    time_min: float = 1e-3  # times are uniform in [time_min, 1]
    flip: bool = False  # mirror half of the images
    precision: str = "float32"  # or "bfloat16", "float16", by autocast
    seed: int = 0

    def __post_init__(self):
        _check_precision(self.precision)


@dataclass(frozen=True)
class DDPMTraining:
    """The noise process of a DDPM and how to train its network. Impossible values: ValueError."""

    schedule: str = "cosine"  # noise schedule, or "linear"
    num_steps: int = 1000  # diffusion steps T; `steps` are the optimizer's
    variance: str = "fixed_small"  # reverse steps' variance: see guided_diffusion.GaussianDiffusion
    steps: int = 1000
    batch_size: int = 128
    lr: float = 1e-3  # highest value of AdamW's one-cycle schedule
    weight_decay: float = 0.01
    ema_halflife: int = 10_000  # images in which the weight of an old network halves
    ema_rampup: float = (
        0.05  # at most this part of the images seen so far counts; 0 = no such bound
    )
    flip: bool = False  # mirror half of the images, which the network then draws too
    precision: str = "float32"  # or "bfloat16", "float16", by autocast
    seed: int = 0

    def __post_init__(self):
        if min(self.steps, self.batch_size, self.num_steps) < 1 or not self.lr > 0:
            raise ValueError(
                f"{self.steps} steps of {self.batch_size} images at learning rate {self.lr}, "
                f"{self.num_steps} steps "
                "of noise: give positive numbers"
            )
        _check_precision(self.precision)


@dataclass(frozen=True)
class VAETraining:
    """How to train a VAE. Impossible values: ValueError."""

    steps: int = 1000
    batch_size: int = 128
    lr: float = 1e-3  # highest value of AdamW's one-cycle schedule
    weight_decay: float = 0.01
    flip: bool = False  # mirror half of the images, which the model then draws too
    precision: str = "float32"  # or "bfloat16", "float16", by autocast
    seed: int = 0

    def __post_init__(self):
        if min(self.steps, self.batch_size) < 1 or not self.lr > 0:
            raise ValueError(
                f"{self.steps} steps of {self.batch_size} images at learning rate {self.lr}: give "
                "positive numbers"
            )
        _check_precision(self.precision)


def _check_precision(precision):
    if precision not in PRECISIONS:
        raise ValueError(f"precision is {precision!r}; use {', '.join(PRECISIONS)}")
