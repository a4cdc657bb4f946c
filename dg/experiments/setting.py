"""A setting of studies: data, networks, features and sizes, as plain data."""

from dataclasses import dataclass, field, replace
from pathlib import Path

from dg.evaluation.classifier import ClassifierTraining
from dg.models.discrete_sampling import DDPMSampling
from dg.models.vae_sampling import VAESampling
from dg.pretraining.presets import (
    CLASSIFIER_PRESETS,
    EDM_CIFAR10,
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
    published_steps  steps of the published unguided sampler, where they are not the model's
    """

    title: str
    data: str | None  # None: has to be given
    scratch_data: str | None = None  # in its place where networks in pretrained/ are trained anew
    resolution: int = 32  # of data that have to be given
    pool: int = 1  # images are averaged over squares of so many pixels
    order: str = "own"
    conditional: bool = False
    models: dict[str, Model] = field(
        default_factory=lambda: {"score": Model(training=SCORE_PRESETS["cifar10-small"])}
    )
    # How its network is trained on for methods that do so: rate and length of Neon's authors.
    tuning: ScoreTraining = replace(EDM_CIFAR10, lr=1e-4, steps=4000, warmup=0)
    classifier: str | None = None
    noisy_classifier: NoisyClassifierTraining = CLASSIFIER_PRESETS["cifar10"]
    released: str | None = None  # a trained head that others have published
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
    window: tuple[float, float] = (0.01, 1.0)  # VP times of guidance
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
    vary_numbers: bool = True  # of images, in the study of failures
    fake_seed: int = 10_000_000  # of those generated images, far from the measured ones
    num_images: int = 50_000  # images of a measured set
    num_sets: int = 3
    # S_churn of boosted samples, as reproduction A.
    churns: tuple[float, ...] = (0.0, 1.0, 1.25, 1.5, 1.75, 2.0, 2.5, 3.0, 4.0, 10.0)
    num_members: int = 6  # discriminators of the study of significance
    published_steps: int | None = None
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
    # What nothing here reads: a published network, in whose place one has to be given.
    missing: str | None = None
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

    @property
    def of_cifar10(self) -> bool:
        """Whether the score network is a published one of CIFAR-10, as most published numbers."""
        return self.published_network and self.data == "cifar10"

    def check_network(self) -> None:
        """ValueError where a network is missing."""
        if self.missing:
            raise ValueError(self.missing)

    def from_scratch(self) -> "Setting":
        """The same with everything trained here. ValueError where there are networks of others."""
        if any(model.training is None for model in self.models.values()):
            raise ValueError(f"{self.title}: its networks are published ones, trained elsewhere")
        models = {name: replace(model, published=None) for name, model in self.models.items()}
        trained = dict(models=models, classifier=None, features="classifier", other_reference=None)
        trained |= dict(shipped=None)
        return replace(self, data=self.scratch_data or self.data, **trained)

    def with_network(self, network: str) -> "Setting":
        """The same with another score network, and with no discriminator of the setting's own. The
        study of failures compares that network alone, and no published numbers stand beside it.

        ValueError where those are of a network that can be had.
        """
        if self.published_network and not self.missing:
            raise ValueError(f"{self.title}: its tables are of one network; take another setting")
        models = self.models | {"score": replace(self.models["score"], published=network)}
        title = f"{self.title}, but the score network is {Path(network).stem}"
        own = dict(released=None, shipped=None, vary_numbers=False, missing=None, published={})
        return replace(self, title=title, models=models, **own)
