"""What a study is made of, as plain data: a question, the discriminators it takes, the systems that
it compares."""

from dataclasses import dataclass, field

from dg.recipes import DiscriminatorTraining

SECTIONS = ("results", "pairs", "discriminators", "deviations", "run")  # of a report, by name


@dataclass(frozen=True)
class Training:
    """How a discriminator comes about: on which extractor ("classifier", "score", "none"), with
    which settings.

    width  channels of the head; None: the setting's on a classifier, else that of
           `build_discriminator`
    model  whose images it learns to tell from real ones
    """

    extractor: str
    settings: DiscriminatorTraining
    width: int | None = None
    model: str = "score"


@dataclass(frozen=True)
class Head:
    """A member of a discriminator: the name of its training, or "released"; and which checkpoint of
    it."""

    training: str
    checkpoint: str = "best"


@dataclass(frozen=True)
class System:
    """One way to sample, measured on the same seeds as every other; without heads it is unguided.

    weights  None: the setting's; "chosen": the best first-order one of the setting's candidates
    average  of the members: "logits", or "probabilities" as reproduction B did
    x        position on the axis of a sweep
    against  the system that it is compared with, None for none
    """

    title: str
    heads: tuple[Head, ...] = ()
    weights: tuple[float, float] | str | None = None
    window: tuple[float, float] = (0.01, 1.0)
    boosting: bool | None = None  # None: the setting's
    S_churn: float = 4.0  # of boosted samples
    num_steps: int | None = None  # None: the model's
    average: str = "logits"
    x: float | None = None
    published: dict | None = None  # filter of a row in stats/published.json
    model: str = "score"  # a model of the setting
    against: str | None = "unguided"


@dataclass(frozen=True)
class Study:
    """What is compared, and how it is shown.

    trainings  the discriminators by name
    tests      "significance": test the heads' distances against the unguided ones
    aside      systems that a second process samples meanwhile on a CPU
    sections   of the report, by name: see `dg.experiments.sections`
    texts      paragraphs of single sections; "lead" and "caption" (of the table) are such too
    """

    title: str
    question: str
    systems: dict[str, System]
    xlabel: str | None = None  # of the sweep, None where there is none
    tests: str | None = None
    nll: bool = False
    trainings: dict[str, Training] = field(default_factory=dict)
    aside: tuple[str, ...] = ()
    sections: tuple[str, ...] = SECTIONS
    texts: dict[str, tuple[str, ...]] = field(default_factory=dict)
