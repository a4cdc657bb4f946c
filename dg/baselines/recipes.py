"""How baselines are built and trained, by name. Plain data, which a script can list at once."""

from dataclasses import dataclass

from dg.pretraining_recipes import PRECISIONS


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
            raise ValueError(f"{self.steps} steps of {self.batch_size} images at learning rate {self.lr}: give positive numbers")
        if self.precision not in PRECISIONS:
            raise ValueError(f"precision is {self.precision!r}; use {', '.join(PRECISIONS)}")


# The network's arguments beyond size and channels, and how to train it.
VAE_PRESETS = {
    # About as many parameters as the EDM preset `mnist`.
    "mnist-vae": (dict(width=32, channel_mult=[1, 2, 2], latent_dim=32), VAETraining(steps=3000)),
    "digits-vae": (dict(width=32, channel_mult=[1, 2], latent_dim=8), VAETraining(batch_size=64)),
}
