"""What a study is made of, as plain data: a question, discriminators, systems to compare."""

from dataclasses import dataclass, field

from dg.experiments.setting import Model
from dg.models.discrete_sampling import DDPMSampling
from dg.recipes import DiscriminatorTraining
from dg.sampling import HeunSampling

SECTIONS = ("results", "pairs", "discriminators", "deviations", "run")  # of a report, by name


@dataclass(frozen=True)
class Training:
    """How a discriminator, or a score difference by the loss of that name, comes about: on which
    extractor ("classifier", "score", "finetuned", "none"), with which settings.

    width     channels of the head; None: the setting's on a classifier, else that of
              `build_discriminator`
    model     whose images it learns to tell from real ones
    num_real  real images, the first ones; None: the setting's number, or all where there are fewer
    num_fake  generated images; None: the setting's number
    part      (i, n): of both kinds every n-th image, from the i-th on
    system    of the study, whose images it learns to tell from real ones; None: the model's
    like      the training that takes as many multiply-adds: the epochs are set so, at least one
    """

    extractor: str
    settings: DiscriminatorTraining
    width: int | None = None
    model: str = "score"
    num_real: int | None = None
    num_fake: int | None = None
    part: tuple[int, int] | None = None
    system: str | None = None
    like: "Training | None" = None


@dataclass(frozen=True)
class Head:
    """A member of a discriminator: name of its training, or of one that the setting gives
    ("released", "shipped"); and its checkpoint."""

    training: str
    checkpoint: str = "best"


@dataclass(frozen=True)
class Kept:
    """Optimal budgeted rejection of finished images: a share of them is kept, by the log ratio at a
    noise level."""

    share: float
    sigma: float


@dataclass(frozen=True)
class System:
    """One way to sample, measured on the same seeds as every other; without heads it is unguided.

    weights  None: the setting's; "chosen": the best first-order one of the setting's candidates;
             "suggested": those of the diagnosis, and its window; (0, 0): the heads do not guide
    window   VP times of guidance, None: the setting's
    every, between  steps at which the discriminator is evaluated, and what guides between them: as
             of `DiscriminatorGuidance`
    average  of the members, as of `Discriminator`
    guide    (model, weight w): the model's prediction is left behind, (1 + w) D - w D_guide (SIMS)
    x        position on the axis of a sweep
    against  the system that it is compared with, None for none
    sampling in place of the model's; where it takes a log ratio, that is the heads'
    kept     which of its finished images are measured, None for all
    line     the method that it is one amount of compute of
    parts    systems whose gains it is to have together
    options  ways to sample of which one is taken in place of this one's
    choice   name of the system whose options are compared, on other seeds and other real images, to
             choose between them; those of all systems that name it stand in the same order
    """

    title: str
    heads: tuple[Head, ...] = ()
    weights: tuple[float, float] | str | None = None
    window: tuple[float, float] | None = None
    every: int = 1
    between: str = "rescale"
    boosting: bool | None = None  # None: the setting's
    S_churn: float = 4.0  # of boosted samples
    num_steps: int | None = None  # None: the model's
    average: str = "logits"
    x: float | None = None
    published: dict | None = None  # filter of a row in stats/published.json
    model: str = "score"  # a model of the setting or of the study
    guide: tuple[str, float] | None = None
    against: str | None = "unguided"
    sampling: HeunSampling | DDPMSampling | None = None
    kept: Kept | None = None
    line: str | None = None
    parts: tuple[str, ...] = ()
    options: tuple["System", ...] = ()
    choice: str | None = None


@dataclass(frozen=True)
class Study:
    """What is compared, and how it is shown.

    trainings  the discriminators by name
    models     models beside the setting's, by name
    tests      "significance": test the heads' distances against the unguided ones
    compute    whether multiply-adds are counted
    heldout    whether the discriminators are judged on images that no training has seen
    tested     whether those of its systems are judged on the test images of their training
    aside      systems that a second process samples meanwhile on a CPU
    sections   of the report, by name: see `dg.experiments.sections`
    texts      paragraphs of single sections; "lead" and "caption" (of the table) are such too
    known      metrics that were measured before on the same seeds, by the title of their row
    """

    title: str
    question: str
    systems: dict[str, System]
    xlabel: str | None = None  # of the sweep, None where there is none
    tests: str | None = None
    nll: bool = False
    compute: bool = False
    heldout: bool = False
    tested: bool = False
    trainings: dict[str, Training] = field(default_factory=dict)
    models: dict[str, Model] = field(default_factory=dict)
    aside: tuple[str, ...] = ()
    sections: tuple[str, ...] = SECTIONS
    texts: dict[str, tuple[str, ...]] = field(default_factory=dict)
    known: dict[str, dict] = field(default_factory=dict)

    @property
    def used_models(self) -> set[str]:
        """Those that systems or discriminators name."""
        found = {training.model for training in self.trainings.values()}
        for system in self.systems.values():
            found |= set(models_of(system))
        return found

    @property
    def heads(self) -> list[Head]:
        """Those of all systems, each once."""
        return list(
            dict.fromkeys(head for system in self.systems.values() for head in system.heads)
        )


def models_of(system: System) -> list[str]:
    """The models of a system, of its guide and of its options, each once."""
    guide = [system.guide[0]] if system.guide else []
    options = [name for option in system.options for name in models_of(option)]
    return list(dict.fromkeys([system.model, *guide, *options]))
