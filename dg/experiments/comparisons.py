"""The experiments that have a setting of their own: the quickstart, the digits, and EDM against
DDPM and VAE.

digits: a score network, a discriminator on its own encoder, a weight chosen on other seeds, and as
its rival the same network trained longer, in minutes on a CPU.
"""

from collections.abc import Callable
from dataclasses import replace

from dg.data.datasets import load_images
from dg.evaluation.classifier import ClassifierTraining
from dg.experiments import three_models
from dg.experiments.quickstart import QUICKSTART, QUICKSTART_SMOKE, quickstart
from dg.experiments.setting import CORE, Model, Setting
from dg.experiments.settings import tiny
from dg.experiments.study import Head, Study, System, Training
from dg.pretraining.presets import SCORE_PRESETS
from dg.recipes import PRESETS
from dg.sampling import Sampling


def _digits_models(steps: int, longer: int, num_steps: int) -> dict[str, Model]:
    """The score network, and the same after so many more steps."""
    network, training = SCORE_PRESETS["digits"]
    score = Model(training=(network, replace(training, steps=steps)), sampling=Sampling(num_steps))
    more = (network, replace(training, steps=steps + longer))
    return {"score": score, "longer": replace(score, training=more, continues="score")}


DIGITS = Setting(
    title="Hand-written digits, 8 × 8 pixels",
    data="digits",
    order="file",
    models=_digits_models(SCORE_PRESETS["digits"][1].steps, 800, 18),
    recipes={"digits": PRESETS["digits"]},
    streamed=False,
    reference_split="all",
    metrics=(*CORE, "fd_heldout", "fd_pixels"),
    decimals=dict(fd=2, fd_heldout=2, kid=3, precision=3, recall=3, fd_pixels=3),
    candidates=(1.0, 2.0, 4.0, 6.0),
    num_data=3000,
    num_real=1437,  # all of them
    fake_seed=1_000_000,
    num_images=1000,
    batch_size=250,
)
DIGITS_SMOKE = replace(
    DIGITS,
    models=_digits_models(6, 2, 3),
    feature_training=ClassifierTraining(epochs=1),
    recipes={"digits": replace(PRESETS["digits"], epochs=2)},
    candidates=(1.0, 2.0),
    num_selection=80,
    **tiny(80),
)
TIME_MAX = 0.6  # VP time of sigma 6, which noise levels of the discriminator's training rarely pass
DIGITS_SECTIONS = ("results", "pairs", "strips", "discriminators", "ratios", "selection", "run")


def digits(setting: Setting) -> Study:
    """The default experiment."""
    guided = System("guided", (Head("digits"),), weights="chosen", window=(0.01, TIME_MAX))
    longer = System("unguided, trained longer", model="longer")
    caption = (
        "FD: Fréchet distance to all 1,797 real digits; held out: to the 360 that no network has "
        "seen; in pixels: without the classifier. Precision and recall: k = 3."
    )
    head = (
        "A small head on the score network's own frozen encoder, which sees the noisy image at the "
        "same noise level: its forward pass is the one that denoises anyway. It is trained to tell "
        "real from generated images, and its logit estimates the log density ratio whose gradient "
        "corrects the score."
    )
    return Study(
        "Discriminator guidance on hand-written digits",
        "A small diffusion model, sampled from the same seeds without and with guidance.",
        {"unguided": System("unguided"), "guided": guided, "longer": longer},
        trainings={"digits": Training("score", setting.recipes["digits"])},
        aside=("unguided", "longer"),
        sections=DIGITS_SECTIONS,
        texts={"caption": (caption,), "discriminators": (head,)},
    )


STUDIES = {"quickstart": quickstart, "digits": digits} | dict.fromkeys(
    three_models.NAMES, three_models.three_models
)


def setting_of(name: str, profile: str = "full", gpu: bool = False) -> Setting:
    """The setting of an experiment: "full" for a GPU or a CPU, or "smoke"."""
    if name == "quickstart":
        return QUICKSTART if profile == "full" else QUICKSTART_SMOKE
    if name == "digits":
        return DIGITS if profile == "full" else DIGITS_SMOKE
    return three_models.setting_of(name, profile, gpu)


def with_available_data(setting: Setting, notify: Callable[[str], None]) -> Setting:
    """The same, on the embedded digits where MNIST cannot be had."""
    if setting.data != "mnist":
        return setting
    try:
        load_images("mnist", 1)
    except ValueError as error:
        notify(f"{error}; going on with the embedded digits (8 x 8), as no other data are given")
        return replace(setting, **three_models.ON_DIGITS)
    return setting
