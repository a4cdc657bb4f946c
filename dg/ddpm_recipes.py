"""How DDPMs are built and trained, by name. Plain data, which a script can list at once."""

from dataclasses import dataclass, replace

from dg.pretraining_recipes import PRECISIONS


@dataclass(frozen=True)
class DDPMTraining:
    """The noise process of a DDPM and how to train its network. Impossible values: ValueError."""

    schedule: str = "cosine"  # of the noise, or "linear"
    num_steps: int = 1000  # T, of the process; `steps` are the optimizer's
    variance: str = "fixed_small"  # of the reverse steps: see guided_diffusion.GaussianDiffusion
    steps: int = 1000
    batch_size: int = 128
    lr: float = 1e-3  # highest value of AdamW's one-cycle schedule
    weight_decay: float = 0.01
    ema_halflife: int = 10_000  # images in which the weight of an old network halves
    ema_rampup: float = 0.05  # at most this part of the images seen so far counts as the half-life
    flip: bool = False  # mirror half of the images, which the network then draws too
    precision: str = "float32"  # or "bfloat16", "float16", by autocast
    seed: int = 0

    def __post_init__(self):
        if min(self.steps, self.batch_size, self.num_steps) < 1 or not self.lr > 0:
            raise ValueError(f"{self.steps} steps of {self.batch_size} images at learning rate {self.lr}, {self.num_steps} steps "
                             "of noise: give positive numbers")
        if self.precision not in PRECISIONS:
            raise ValueError(f"precision is {self.precision!r}; use {', '.join(PRECISIONS)}")


# MNISTDiffusion (bot66): noise, loss, optimizer, batch, 100 epochs and average are its own, as are the widths 64, 128, 256 at
# 28, 14 and 7 pixels; the blocks are ADM's, with attention at 7 pixels, in place of its ShuffleNet units without any. Its
# average keeps 0.936 of itself every tenth step: half after 13,400 images.
MNIST_DIFFUSION = DDPMTraining(steps=46_900, ema_halflife=13_400)
MNIST_UNET = dict(model_channels=64, channel_mult=[1, 2, 4], num_res_blocks=1, attention_resolutions=[7], resblock_updown=False)

# The network's arguments beyond size, channels and classes, and how to train it.
DDPM_PRESETS = {
    "mnist-ddpm": (MNIST_UNET, MNIST_DIFFUSION),
    # The noise of Ho et al. 2020.
    "mnist-ddpm-linear": (MNIST_UNET, replace(MNIST_DIFFUSION, schedule="linear")),
    # For a CPU; about as many parameters as the EDM preset `mnist`.
    "mnist-ddpm-small": (
        MNIST_UNET | dict(model_channels=32, channel_mult=[1, 1, 2]),
        DDPMTraining(steps=3000, ema_halflife=20_000),
    ),
    "digits-ddpm": (
        dict(model_channels=32, channel_mult=[1, 1], num_res_blocks=1, attention_resolutions=[4], num_head_channels=32,
             resblock_updown=False),
        DDPMTraining(num_steps=200, steps=1000, batch_size=64, lr=2e-3, ema_halflife=5000),
    ),
}
