"""Recipes for the training of a discriminator: every setting, and the presets by name. They are
plain data, so a script lists them without loading torch."""

from dataclasses import dataclass, replace

from dg.pretraining.settings import PRECISIONS

CHOICES = {
    "batches": ("balanced", "mixed"),
    "lr_schedule": ("constant", "cosine"),
    "loss": ("bce", "matching", "sobolev", "difference"),
    "time_sampling": ("importance", "uniform", "lognormal"),
    "time_dtype": ("float64", "float32"),
    "precision": PRECISIONS,
}
# Chosen on two Gaussians (dg.experiments.two_gaussians): no published value was found for either.
LOSS_WEIGHTS = {"bce": 0.0, "matching": 0.3, "sobolev": 0.001, "difference": 0.0}


@dataclass(frozen=True)
class DiscriminatorTraining:
    """Settings of a training; the defaults are the default recipe. ValueError for impossible
    values."""

    epochs: int = 20
    batch_size: int = 128
    batches: str = (
        "balanced"  # half real, half generated, an epoch being a pass over the larger set;
    )
    # or "mixed": drawn from one shuffled set of both, as the authors do
    microbatch: int | None = (
        None  # images that a process computes at once, for less memory; None = all
    )
    lr: float = 3e-4  # Adam's learning rate
    weight_decay: float = 1e-7  # L2 inside Adam, as the authors'
    lr_schedule: str = "cosine"  # to zero at the last epoch, or "constant"
    ema_halflife: int = 50_000  # images in which the weight of an old head halves; 0 = no averaging
    # at most this part of the images seen so far counts as the half-life; 0 = no such bound
    ema_rampup: float = 0.05
    loss: str = "bce"  # or "matching", "sobolev", "difference": dg.losses
    # weight of the term that the second and the third add; None: LOSS_WEIGHTS
    loss_weight: float | None = None
    lora_rank: int = 0  # rank of an adapter on the extractor's network, trained too; 0 = none
    lora_alpha: float | None = None  # its scale is alpha / rank; None: 1
    time_sampling: str = (
        "lognormal"  # ln(sigma) ~ N(P_mean, P_std^2), or "importance" or "uniform" in VP time
    )
    time_min: float = 1e-5  # smallest VP time of the last two
    time_dtype: str = (
        "float64"  # for the last two; "float32" rounds small times as the authors' code does
    )
    P_mean: float = -1.2
    P_std: float = 1.2
    flip: bool = False  # mirror half of the images, real and generated
    precision: str = "float32"  # or "bfloat16", "float16", by autocast
    split: tuple[float, float, float] = (0.8, 0.1, 0.1)  # train, validation, test
    unequal: bool = False  # allow different numbers of real and generated images
    conditional: bool = False
    patience: int = 0  # stop after so many epochs without a lower validation loss; 0 = never
    keep_every: int = 0  # also keep the head of every so many epochs
    # noisy images of each kind that an evaluation looks at; a smaller set is taken repeatedly
    eval_images: int = 5000
    seed: int = 0

    @property
    def penalty(self) -> float:
        """The weight in use of the term that the loss adds to the cross-entropy."""
        return LOSS_WEIGHTS[self.loss] if self.loss_weight is None else self.loss_weight

    @property
    def needs_net(self) -> bool:
        """Whether the loss takes a score network."""
        return self.loss in ("matching", "difference")

    @property
    def needs_fake(self) -> bool:
        """Whether there are generated images beside the real ones."""
        return self.loss != "difference"

    def __post_init__(self):
        object.__setattr__(self, "split", tuple(self.split))
        for name, allowed in CHOICES.items():
            if getattr(self, name) not in allowed:
                raise ValueError(f"{name} is {getattr(self, name)!r}; use {' or '.join(allowed)}")
        if (
            len(self.split) != 3
            or self.split[0] <= 0
            or min(self.split) < 0
            or not abs(sum(self.split) - 1) < 1e-6
        ):
            raise ValueError(
                f"the split is {self.split}; give three fractions of sum 1, the first above "
                "0, for example 0.8,0.1,0.1"
            )
        if self.needs_fake and self.batches == "balanced" and self.batch_size % 2:
            raise ValueError(
                f"the batch size {self.batch_size} is odd, but half of a balanced batch is "
                "real; give an even one"
            )
        if self.microbatch is not None and self.microbatch < 1:
            raise ValueError(f"microbatch is {self.microbatch}; give at least 1")
        if self.lora_rank and self.loss == "difference":
            raise ValueError(
                f"the loss difference trains no LoRA, but its rank is {self.lora_rank}; give 0"
            )
        if self.patience and not self.split[1]:
            raise ValueError(
                "early stopping needs validation images; give a patience of 0, or the split "
                "0.8,0.1,0.1"
            )


# Kim et al. 2023 and their code: all images train, one shuffled set, no average, a checkpoint per
# epoch.
AUTHORS = DiscriminatorTraining(
    epochs=60,
    batches="mixed",
    lr_schedule="constant",
    ema_halflife=0,
    time_dtype="float32",
    time_sampling="importance",
    split=(1.0, 0.0, 0.0),
    keep_every=1,
)
# Reproduction B (Kleger and Sartor): the same on 80% of the images; epochs, learning rate, weight
# decay, smallest time.
KTH = {
    "kth-d0": (60, 3e-4, 1e-7, 1e-5),
    "kth-d1": (40, 1e-3, 1e-7, 1e-5),
    "kth-d2": (40, 1e-4, 0.0, 0.01),
    "kth-d3": (40, 1e-4, 1e-3, 1e-3),
    "kth-d4": (40, 5e-5, 1e-9, 1e-3),
    "kth-d5": (200, 1e-5, 1e-11, 1e-5),
}

PRESETS = {
    "default": DiscriminatorTraining(),
    # The small head on a score network's encoder takes a higher learning rate, and longer.
    "score": DiscriminatorTraining(epochs=30, lr=2e-3, lr_schedule="constant"),
    # The same for few images: the 1,437 real ones are soon learned by heart.
    "digits": DiscriminatorTraining(
        epochs=36,
        lr=2e-3,
        lr_schedule="constant",
        ema_halflife=8800,
        ema_rampup=0.0,
        split=(0.9, 0.1, 0.0),
        unequal=True,
        eval_images=1000,
    ),
    # The heads in pretrained/ and in the quickstart.
    "mnist-14": DiscriminatorTraining(
        epochs=6, lr=1e-3, split=(0.9, 0.1, 0.0), unequal=True, eval_images=300
    ),
    "authors-uncond": AUTHORS,
    "authors-cond": replace(AUTHORS, epochs=250, conditional=True),
    **{
        name: replace(
            AUTHORS,
            epochs=epochs,
            lr=lr,
            weight_decay=weight_decay,
            time_min=time_min,
            split=(0.8, 0.1, 0.1),
            keep_every=0,
        )
        for name, (epochs, lr, weight_decay, time_min) in KTH.items()
    },
    # The authors' for latents of DiT-XL/2: half of a batch is real, and the smaller set is passed
    # over again and again. Their clip of the probability to [1e-5, 1 - 1e-5] in the loss is left
    # out: it acts on log ratios beyond 11.5 alone.
    "imagenet-latent": replace(
        AUTHORS, epochs=7, batch_size=1024, batches="balanced", conditional=True, unequal=True
    ),
    # Reproduction A (Abdellaoui, Persson, Santos Escriche), who do not state another training
    # length than the authors'.
    "lora-16": replace(AUTHORS, lora_rank=16),
    "lora-128": replace(AUTHORS, lora_rank=128),
}
