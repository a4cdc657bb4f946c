"""The settings in which studies are run: data, networks, features and sizes, as plain data."""

from dataclasses import dataclass, field, replace
from pathlib import Path

from dg.evaluation.classifier import ClassifierTraining
from dg.models.discrete_sampling import DDPMSampling
from dg.models.vae_sampling import VAESampling
from dg.pretraining.presets import (
    CLASSIFIER_PRESETS,
    SCORE_PRESETS,
    DDPMTraining,
    NoisyClassifierTraining,
    ScoreTraining,
    VAETraining,
)
from dg.recipes import DiscriminatorTraining
from dg.sampling import Sampling

CORE = ("fd", "kid", "precision", "recall")  # metrics of every setting


@dataclass(frozen=True)
class Model:
    """A generative model: a published one, or one that is trained here.

    kind       "edm", "ddpm" or "vae"
    training   arguments of the network, and how it is trained
    published  name of a published network, or of one in pretrained/, in place of a training
    continues  the model whose training this one goes on with
    """

    kind: str = "edm"
    training: tuple[dict, ScoreTraining | DDPMTraining | VAETraining] | None = None
    sampling: Sampling | DDPMSampling | VAESampling = Sampling()
    title: str = "score network"
    published: str | None = None
    continues: str | None = None

    def num_evaluations(self, num_steps: int | None = None) -> int:
        """Evaluations of the network for one image, with another number of steps than its own."""
        if self.kind == "vae":
            return 1
        steps = num_steps or self.sampling.num_steps or self.training[1].num_steps
        ddpm = self.kind == "ddpm"
        return steps if ddpm else replace(self.sampling, num_steps=steps).num_evaluations


@dataclass(frozen=True)
class Setting:
    """What a study needs besides its question.

    A published network, classifier, head or statistics is named as in `dg.runtime.catalogue` or in
    pretrained/; where it is None, it is trained (or computed) here.

    order     of the images: "own", each split shuffled by a generator of its own; "shared", both
              splits one after the other by one generator; "file", as they come
    streamed  statistics of features as running sums over batches; False: of all features at once,
              in float64
    metrics   besides the usual four also "fd_heldout", "fd_pixels", "fd_random_vgg", "fid" (if
              Inception is in the cache), "agreement"
    decimals  of metrics in tables, where the sd is not to say how many
    recipes   discriminators of this setting alone, by name
    """

    title: str
    data: str | None  # None: has to be given
    scratch_data: str | None = None  # in its place where networks in pretrained/ are trained anew
    pixels: int = 32  # of a side of the images, where the name of the data does not tell
    pool: int = 1  # images are averaged over squares of so many pixels
    order: str = "own"
    conditional: bool = False
    models: dict[str, Model] = field(
        default_factory=lambda: {"score": Model(training=SCORE_PRESETS["cifar10-small"])}
    )
    classifier: str | None = None
    noisy_classifier: NoisyClassifierTraining = CLASSIFIER_PRESETS["cifar10"]
    released: str | None = None  # the authors' trained head
    shipped: str | None = None  # a trained head in pretrained/
    # Forward pass of the discriminator, and its gradient with that, in evaluations of the score
    # network: for choosing steps of equal compute; docs/speed.md measures these two.
    discriminator_cost: tuple[float, float] = (0.5, 1.2)
    features: str = "classifier"  # trained here; or "inception", "pixels", a name in pretrained/
    feature_training: ClassifierTraining = ClassifierTraining()
    num_features: int | None = None  # training images of that classifier, None for all
    streamed: bool = True
    reference: str | None = None  # published statistics; None: of the real images
    other_reference: str | None = None  # the same in the features of random VGG
    reference_split: str = "test"  # or "train", "all"
    num_reference: int | None = None  # real images, None for all
    metrics: tuple[str, ...] = CORE
    decimals: dict[str, int] = field(default_factory=dict)
    weights: tuple[float, float] = (2.0, 0.0)
    candidates: tuple[float, ...] = ()  # first-order weights to choose from
    num_selection: int = 500  # images, of seeds used for nothing else, to choose by
    selection_seed: int = 2_000_000
    boosting: bool = False
    epoch_scale: float = 1.0  # of the discriminators' published epochs
    eval_images: int = 5000
    recipes: dict[str, DiscriminatorTraining] = field(default_factory=dict)
    lora_ranks: tuple[int, int] = (16, 128)  # an eighth of the classifier's width, and all of it
    head_width: int | None = None  # of heads on the classifier, None: the authors'
    pixel_widths: tuple[int, ...] = (64, 128)  # of one or two discriminators from scratch
    num_data: int = 50_000  # real and as many generated images for the discriminators
    num_real: int | None = None  # real ones, if not as many
    fake_seed: int = 10_000_000  # of those generated images, far from the measured ones
    num_images: int = 50_000  # images of a measured set
    num_sets: int = 3
    # S_churn of boosted samples, as reproduction A.
    churns: tuple[float, ...] = (0.0, 1.0, 1.25, 1.5, 1.75, 2.0, 2.5, 3.0, 4.0, 10.0)
    num_members: int = 6  # discriminators of the study of significance
    nll_images: int = 1000
    nll_steps: int = 64
    num_snapshots: int = 0  # of trainings, at doublings of their steps, for curves of the bound
    bound_images: int = 256  # training images, and as many test images, for those
    bound_terms: int = 50  # drawn of a DDPM's bound for each image
    batch_size: int = 100
    parallel_training: bool = False  # heads on all cores, so that weights depend on their number
    ddpm_steps: tuple[int, ...] = ()  # in which a DDPM is sampled too, ancestrally and by DDIM
    num_test_loss: int = 0  # test images whose loss is watched while models are trained
    budget: str | None = None
    deviations: tuple[str, ...] = ()
    # By system: filters of rows in stats/published.json, the paper's first.
    published: dict = field(default_factory=dict)

    @property
    def choice_split(self) -> str:
        """The real images by which options are chosen: those that nothing is measured by."""
        return "test" if self.reference_split == "train" else "train"

    @property
    def given(self) -> dict[str, str]:
        """Trained heads that need no training here, by their names in studies."""
        known = {"released": self.released, "shipped": self.shipped}
        return {name: file for name, file in known.items() if file}

    @property
    def published_network(self) -> bool:
        """Whether the score network is one of others."""
        return self.models["score"].training is None

    def from_scratch(self) -> "Setting":
        """The same with everything trained here. ValueError where there are networks of others."""
        if any(model.training is None for model in self.models.values()):
            raise ValueError(f"{self.title}: its networks are published ones, trained elsewhere")
        models = {name: replace(model, published=None) for name, model in self.models.items()}
        trained = dict(models=models, classifier=None, features="classifier", other_reference=None)
        trained |= dict(shipped=None)
        return replace(self, data=self.scratch_data or self.data, **trained)

    def with_network(self, network: str) -> "Setting":
        """The same with another score network, and with no discriminator of the setting's own.
        ValueError where published numbers stand beside those of its network."""
        if self.published_network:
            raise ValueError(f"{self.title}: its tables are of one network; take another setting")
        models = self.models | {"score": replace(self.models["score"], published=network)}
        title = f"{self.title}, but the score network is {Path(network).stem}"
        return replace(self, title=title, models=models, released=None, shipped=None)


def _table(conditional: bool) -> dict:
    """The paper's rows and those of the reproductions, by system."""
    unguided = [("paper-table-3", "EDM (random seed)"), ("reproduction-a", "EDM")]
    released = [("paper-table-3", "EDM-G++"), ("reproduction-a", "EDM-G++")]
    named = {"unguided": unguided, "released": released}
    if not conditional:
        unguided.append(("reproduction-b", "EDM"))
        released.append(("reproduction-b", "EDM-G++, the authors' discriminator"))
        named["authors"] = [("reproduction-b", "EDM-G++, own discriminator")]
    fid = dict(metric="fid", conditional=conditional)
    return {
        name: [dict(source=source, system=system) | fid for source, system in rows]
        for name, rows in named.items()
    }


def _cifar10(conditional: bool) -> Setting:
    """Published networks, the authors' discriminator and the table of the paper."""
    kind = "cond" if conditional else "uncond"
    return Setting(
        title=f"CIFAR-10, {'class-conditional' if conditional else 'unconditional'}",
        data="cifar10",
        conditional=conditional,
        models={"score": Model(published=f"edm-cifar10-32x32-{kind}-vp")},
        classifier="dg-cifar10-classifier",
        released=f"dg-cifar10-{kind}-discriminator",
        features="inception",
        reference="fid-ref-cifar10-32x32",
        reference_split="train",
        weights=(1.0, 0.0) if conditional else (2.0, 0.0),
        boosting=conditional,
        batch_size=500,
        published=_table(conditional),
    )


def _small(size: int, channels: int, attention: int, training: ScoreTraining, images: str) -> dict:
    """What settings for two CPU cores and half an hour per study share."""
    network = dict(model_type="SongUNet", model_channels=channels, channel_mult=[1, 2])
    network |= dict(num_blocks=1, attn_resolutions=[attention], dropout=0.0)
    return dict(
        pool=2,
        models={"score": Model(training=(network, training), sampling=Sampling(num_steps=12))},
        epoch_scale=1 / 3,
        eval_images=300,
        lora_ranks=(4, 32),
        head_width=64,
        num_data=2000,
        num_images=500,
        num_members=3,
        nll_images=100,
        churns=(0.0, 1.0, 2.0, 4.0, 10.0),
        deviations=(
            f"{images} averaged over squares of 2 × 2 pixels to {size} × {size}, and the published "
            "numbers of epochs are cut to a third, to fit two CPU cores.",
        ),
    )


def shipped(name: str, title: str, data: str) -> Setting:
    """The networks in pretrained/ under one name, and embedded images."""
    return Setting(
        title=title,
        data=data,
        order="file",
        models={"score": Model(training=SCORE_PRESETS[name], published=name)},
        classifier=f"{name}-noisy-classifier",
        shipped=f"{name}-disc",
        discriminator_cost=(2.4, 4.8),
        noisy_classifier=CLASSIFIER_PRESETS[name],
        features=f"{name}-features",
        feature_training=ClassifierTraining(epochs=6),
        other_reference=f"{name}-ref-random-vgg",
        metrics=(*CORE, "fd_random_vgg"),
        decimals=dict(fd=2, kid=2, precision=3, recall=3, fd_random_vgg=4),
        head_width=64,
        num_data=5000,
        fake_seed=1_000_000,
        num_images=500,
        scratch_data=name,
    )


def _studied(name: str, size: int, data: str) -> Setting:
    """The studies on them, of a size for two CPU cores."""
    return replace(
        shipped(name, f"MNIST at {size} × {size} pixels, the network that ships", data),
        epoch_scale=1 / 6,
        eval_images=300,
        candidates=(1.0, 2.0, 4.0),
        pixel_widths=(32, 64),
        lora_ranks=(4, 32),
        num_members=3,
        nll_images=100,
        churns=(0.0, 1.0, 2.0, 4.0, 10.0),
        deviations=(
            "5,000 images of each kind instead of 50,000, and a sixth of the published numbers of "
            "epochs, to fit two CPU cores.",
        ),
    )


SMALL_CLASSIFIER = NoisyClassifierTraining(steps=400, batch_size=64, channel_mult=(1, 2))
SETTINGS = {
    "cifar10-uncond": _cifar10(conditional=False),
    "cifar10-cond": _cifar10(conditional=True),
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
            "The images are JPEGs of CIFAR-10, not the original pixels; no number here compares "
            "with a published one.",
        ),
    ),
    "cifar10-jpeg-16": Setting(
        title="CIFAR-10 (JPEG) at 16 × 16 pixels, networks trained here",
        data=None,
        noisy_classifier=replace(SMALL_CLASSIFIER, steps=600, flip=True),
        feature_training=ClassifierTraining(epochs=3, batch_size=128, max_shift=2),
        num_features=20_000,
        pixel_widths=(64,),
        **_small(
            size=16,
            channels=32,
            attention=8,
            training=ScoreTraining(steps=1500, batch_size=64, ema_halflife=10_000, flip=True),
            images="The images are JPEGs of CIFAR-10,",
        ),
    ),
    "mnist": Setting(
        title="MNIST, networks trained here",
        data="mnist",
        models={"score": Model(training=SCORE_PRESETS["mnist"])},
        noisy_classifier=CLASSIFIER_PRESETS["mnist"],
        feature_training=ClassifierTraining(epochs=4, batch_size=128),
        num_images=5000,
        num_data=10_000,
        batch_size=250,
        head_width=64,
        lora_ranks=(4, 32),
    ),
    "mnist-14": _studied("mnist-14", 14, "mnist-small-14"),
    "mnist-28": _studied("mnist-28", 28, "mnist-small"),
}


def tiny(num_images: int) -> dict:
    """Sizes with which everything runs in seconds."""
    return dict(num_data=160, num_images=num_images, num_sets=2, batch_size=num_images)


def smoke(setting: Setting) -> Setting:
    """The same on untrained tiny networks and embedded digits, to see that everything runs."""
    score = (SCORE_PRESETS["digits"][0], ScoreTraining(steps=4, batch_size=8))
    classifier = dict(steps=2, batch_size=8, channel_mult=(1, 2), attention_resolutions=(4,))
    return replace(
        setting,
        title=f"Smoke test of: {setting.title}",
        data="digits",
        pool=1,
        classifier=None,
        released=None,
        shipped=None,
        models={"score": Model(training=score, sampling=Sampling(num_steps=3))},
        reference=None,
        noisy_classifier=NoisyClassifierTraining(**classifier),
        features="pixels",
        reference_split="heldout",
        epoch_scale=0.0,
        eval_images=20,
        lora_ranks=(4, 32),
        head_width=64,
        pixel_widths=(64,),
        num_members=2,
        num_selection=20,
        nll_images=4,
        nll_steps=2,
        published={},
        **tiny(20),
    )
