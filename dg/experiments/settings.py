"""Worlds in which the studies are run: data, networks, features and sizes, as plain data."""

from dataclasses import dataclass, field, replace

from dg.evaluation.classifier import ClassifierTraining
from dg.pretraining.presets import (
    CLASSIFIER_PRESETS,
    SCORE_PRESETS,
    NoisyClassifierTraining,
    ScoreTraining,
)
from dg.sampling import Sampling


@dataclass(frozen=True)
class Setting:
    """What a study needs besides its question.

    A published network, classifier, head or statistics is named as in `dg.runtime.catalogue`; where it is None, it is
    trained (or computed) here.
    """

    title: str
    data: str | None  # default of --data; None: has to be given
    pool: int = 1  # images are averaged over squares of so many pixels
    conditional: bool = False
    network: str | None = None
    score: tuple[dict, ScoreTraining] = SCORE_PRESETS["cifar10-small"]
    classifier: str | None = None
    noisy_classifier: NoisyClassifierTraining = CLASSIFIER_PRESETS["cifar10"]
    released: str | None = None  # the authors' trained head
    features: str = "classifier"  # that distances are measured in: "inception", "pixels", or a classifier trained here
    feature_training: ClassifierTraining = ClassifierTraining()
    num_features: int | None = None  # training images of that classifier, None for all
    reference: str | None = None  # published statistics; None: of the real images
    reference_split: str = "test"
    sampling: Sampling = Sampling()
    weights: tuple[float, float] = (2.0, 0.0)
    boosting: bool = False
    epoch_scale: float = 1.0  # of the discriminators' published epochs
    eval_images: int = 5000
    lora_ranks: tuple[int, int] = (16, 128)  # an eighth of the classifier's width, and all of it
    head_width: int | None = None  # of heads on the classifier, None: the authors'
    pixel_widths: tuple[int, ...] = (64, 128)  # of one or two discriminators from scratch
    num_data: int = 50_000  # real and as many generated images for the discriminators
    num_images: int = 50_000  # images of a measured set
    num_sets: int = 3
    churns: tuple[float, ...] = (
        0.0,
        1.0,
        1.25,
        1.5,
        1.75,
        2.0,
        2.5,
        3.0,
        4.0,
        10.0,
    )  # of boosted samples, as reproduction A
    num_members: int = 6  # discriminators of the study of significance
    nll_images: int = 1000
    nll_steps: int = 64
    batch_size: int = 100
    deviations: tuple[str, ...] = ()
    published: dict = field(
        default_factory=dict
    )  # system: filters of rows in stats/published.json, the paper's first


def _table(conditional: bool) -> dict:
    """The paper's rows and those of the reproductions, by system."""
    fid = dict(metric="fid", conditional=conditional)
    both = {
        "unguided": [
            dict(source="paper-table-3", system="EDM (random seed)"),
            dict(source="reproduction-a", system="EDM"),
        ],
        "released": [
            dict(source="paper-table-3", system="EDM-G++"),
            dict(source="reproduction-a", system="EDM-G++"),
        ],
    }
    if not conditional:
        both["unguided"].append(dict(source="reproduction-b", system="EDM"))
        both["released"].append(
            dict(source="reproduction-b", system="EDM-G++, the authors' discriminator")
        )
        both["authors"] = [dict(source="reproduction-b", system="EDM-G++, own discriminator")]
    return {name: [row | fid for row in rows] for name, rows in both.items()}


CIFAR10 = Setting(
    title="CIFAR-10, unconditional",
    data="cifar10",
    network="edm-cifar10-32x32-uncond-vp",
    classifier="dg-cifar10-classifier",
    released="dg-cifar10-uncond-discriminator",
    features="inception",
    reference="fid-ref-cifar10-32x32",
    reference_split="train",
    batch_size=500,
    published=_table(conditional=False),
)

WORLDS = {
    "cifar10-uncond": CIFAR10,
    "cifar10-cond": replace(
        CIFAR10,
        title="CIFAR-10, class-conditional",
        conditional=True,
        network="edm-cifar10-32x32-cond-vp",
        released="dg-cifar10-cond-discriminator",
        weights=(1.0, 0.0),
        boosting=True,
        published=_table(conditional=True),
    ),
    "cifar10-jpeg": Setting(
        title="CIFAR-10 (JPEG), networks trained here",
        data=None,
        noisy_classifier=CLASSIFIER_PRESETS["cifar10-small"],
        feature_training=ClassifierTraining(batch_size=128, max_shift=4),
        num_images=10_000,
        num_data=20_000,
        batch_size=500,
        head_width=64,
        lora_ranks=(8, 64),
        deviations=(
            "The images are JPEGs of CIFAR-10, not the original pixels; no number here compares with a published one.",
        ),
    ),
    "mnist": Setting(
        title="MNIST, networks trained here",
        data="mnist",
        score=SCORE_PRESETS["mnist"],
        noisy_classifier=CLASSIFIER_PRESETS["mnist"],
        feature_training=ClassifierTraining(epochs=4, batch_size=128),
        num_images=5000,
        num_data=10_000,
        batch_size=250,
        head_width=64,
        lora_ranks=(4, 32),
    ),
    # For two CPU cores and half an hour per study.
    "mnist-14": Setting(
        title="MNIST at 14 × 14 pixels, networks trained here",
        data="mnist",
        pool=2,
        score=(
            dict(
                model_type="SongUNet",
                model_channels=24,
                channel_mult=[1, 2],
                num_blocks=1,
                attn_resolutions=[7],
                dropout=0.0,
            ),
            ScoreTraining(steps=1200, ema_halflife=10_000),
        ),
        noisy_classifier=NoisyClassifierTraining(steps=400, batch_size=64, channel_mult=(1, 2)),
        feature_training=ClassifierTraining(epochs=2, batch_size=128),
        num_features=10_000,
        sampling=Sampling(num_steps=12),
        epoch_scale=1 / 3,
        eval_images=300,
        lora_ranks=(4, 32),
        head_width=64,
        pixel_widths=(32, 64),
        num_data=2000,
        num_images=500,
        num_members=3,
        nll_images=100,
        churns=(0.0, 1.0, 2.0, 4.0, 10.0),
        deviations=(
            "MNIST is averaged over squares of 2 × 2 pixels to 14 × 14, and the published numbers of epochs are cut to "
            "a third, to fit two CPU cores.",
        ),
    ),
    "cifar10-jpeg-16": Setting(
        title="CIFAR-10 (JPEG) at 16 × 16 pixels, networks trained here",
        data=None,
        pool=2,
        score=(
            dict(
                model_type="SongUNet",
                model_channels=32,
                channel_mult=[1, 2],
                num_blocks=1,
                attn_resolutions=[8],
                dropout=0.0,
            ),
            ScoreTraining(steps=1500, batch_size=64, ema_halflife=10_000, flip=True),
        ),
        noisy_classifier=NoisyClassifierTraining(
            steps=600, batch_size=64, channel_mult=(1, 2), flip=True
        ),
        feature_training=ClassifierTraining(epochs=3, batch_size=128, max_shift=2),
        num_features=20_000,
        sampling=Sampling(num_steps=12),
        epoch_scale=1 / 3,
        eval_images=300,
        lora_ranks=(4, 32),
        head_width=64,
        pixel_widths=(64,),
        num_data=2000,
        num_images=500,
        num_members=3,
        nll_images=100,
        churns=(0.0, 1.0, 2.0, 4.0, 10.0),
        deviations=(
            "The images are JPEGs of CIFAR-10, averaged over squares of 2 × 2 pixels to 16 × 16, and the published "
            "numbers of epochs are cut to a third, to fit two CPU cores.",
        ),
    ),
}


def smoke(world: Setting) -> Setting:
    """The same study on untrained tiny networks and the embedded digits: meaningless, to see that everything runs."""
    return replace(
        world,
        title=f"Smoke test of: {world.title}",
        data="digits",
        pool=1,
        network=None,
        classifier=None,
        released=None,
        score=(SCORE_PRESETS["digits"][0], ScoreTraining(steps=4, batch_size=8)),
        reference=None,
        noisy_classifier=NoisyClassifierTraining(
            steps=2, batch_size=8, channel_mult=(1, 2), attention_resolutions=(4,)
        ),
        features="pixels",
        reference_split="heldout",
        sampling=Sampling(num_steps=3),
        epoch_scale=0.0,
        eval_images=20,
        lora_ranks=(4, 32),
        head_width=64,
        pixel_widths=(64,),
        num_data=160,
        num_images=20,
        num_sets=2,
        num_members=2,
        nll_images=4,
        nll_steps=2,
        batch_size=20,
        published={},
    )
