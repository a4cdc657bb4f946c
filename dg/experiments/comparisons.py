"""The experiments that have a setting of their own: the digits, and EDM against DDPM and VAE on
MNIST.

digits: a score network, a discriminator on its own encoder, a weight chosen on other seeds, and as
its rival the same network trained longer, in minutes on a CPU. mnist, mnist-cond: three kinds of
models from scratch, and what a U-Net discriminator trained from scratch adds to the two diffusion
models.
"""

from collections.abc import Callable
from dataclasses import replace

from dg.data.datasets import load_images
from dg.evaluation.classifier import ClassifierTraining
from dg.experiments.settings import Model, Setting
from dg.experiments.study import Head, Study, System, Training
from dg.models.discrete_sampling import DDPMSampling
from dg.models.vae_sampling import VAESampling
from dg.pretraining.presets import (
    DDPM_PRESETS,
    SCORE_PRESETS,
    VAE_PRESETS,
    ScoreTraining,
    VAETraining,
)
from dg.recipes import PRESETS
from dg.sampling import Sampling

MEASURED = ("fd", "kid", "precision", "recall")

# Digits -------------------------------------------------------------------------------------------


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
    metrics=(*MEASURED, "fd_heldout", "fd_pixels"),
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
    num_data=160,
    num_images=80,
    num_sets=2,
    batch_size=80,
)
TIME_MAX = (
    0.6  # VP time of sigma 6, which noise levels of the discriminator's training seldom exceed
)


def digits(setting: Setting) -> Study:
    """The default experiment."""
    guided = System("guided", (Head("digits"),), weights="chosen", window=(0.01, TIME_MAX))
    return Study(
        "Discriminator guidance on hand-written digits",
        "A small diffusion model, sampled from the same seeds without and with guidance.",
        {
            "unguided": System("unguided"),
            "guided": guided,
            "longer": System("unguided, trained longer", model="longer"),
        },
        trainings={"digits": Training("score", setting.recipes["digits"])},
        aside=("unguided", "longer"),
        sections=("results", "pairs", "strips", "discriminators", "ratios", "selection", "run"),
        texts={
            "caption": (
                "FD: Fréchet distance to all 1,797 real digits; held out: to the 360 that no "
                "network has seen; in pixels: without the classifier. Precision and recall: k = 3.",
            ),
            "discriminators": (
                "A small head on the score network's own frozen encoder, which sees the noisy "
                "image at the same noise level: its forward pass is the one that denoises anyway. "
                "It is trained to tell real from generated images, and its logit estimates the log "
                "density ratio whose gradient corrects the score.",
            ),
        },
    )


# EDM, DDPM and VAE --------------------------------------------------------------------------------


def _models(edm, ddpm, vae, edm_steps: int, ddpm_steps: int) -> dict[str, Model]:
    return {
        "edm": Model("edm", edm, Sampling(edm_steps), "EDM"),
        "ddpm": Model("ddpm", ddpm, DDPMSampling("ddim", num_steps=ddpm_steps), "DDPM"),
        "vae": Model("vae", vae, VAESampling(), "VAE"),
    }


def _preset(presets, name: str, width: dict | None = None, **changes) -> tuple:
    """A preset's network, with other arguments, and its training, with changes."""
    network, training = presets[name]
    return network | (width or {}), replace(training, **changes)


def _heads(edm: int, ddpm: int, **changes) -> dict:
    """The default recipe for so many epochs."""
    epochs = {"edm": edm, "ddpm": ddpm}
    return {model: replace(PRESETS["default"], epochs=n, **changes) for model, n in epochs.items()}


MNIST_GPU = Setting(
    title="MNIST, three models trained here",
    data="mnist",
    order="shared",
    models=_models(
        _preset(
            SCORE_PRESETS,
            "mnist",
            dict(model_channels=64),
            steps=23_450,
            batch_size=256,
            lr=1e-3,
            ema_halflife=50_000,
            precision="bfloat16",
        ),
        _preset(DDPM_PRESETS, "mnist-ddpm", precision="bfloat16"),
        (VAE_PRESETS["mnist-vae"][0] | dict(width=64), VAETraining(steps=46_900)),
        edm_steps=18,
        ddpm_steps=100,
    ),
    recipes=_heads(15, 15),
    head_width=64,
    feature_training=ClassifierTraining(epochs=6, batch_size=128),
    streamed=False,
    num_reference=10_000,
    metrics=(*MEASURED, "fid", "agreement"),
    num_data=20_000,
    num_images=10_000,
    nll_steps=128,
    batch_size=250,
    num_test_loss=256,
    budget="one GPU",
)
# What two CPU cores do in 90 minutes: every model sees 96,000 images, 1.6 epochs where
# MNISTDiffusion takes a hundred.
MNIST_CPU = replace(
    MNIST_GPU,
    models=_models(
        _preset(SCORE_PRESETS, "mnist", steps=1500),
        _preset(DDPM_PRESETS, "mnist-ddpm-small", steps=1500, batch_size=64),
        (VAE_PRESETS["mnist-vae"][0], VAETraining(steps=1500, batch_size=64)),
        edm_steps=12,
        ddpm_steps=25,
    ),
    # EDM's images are harder to tell from real ones: after 10 epochs its discriminator had learned
    # little.
    recipes=_heads(20, 10, eval_images=300),
    head_width=32,
    feature_training=ClassifierTraining(epochs=2, batch_size=128),
    num_data=2000,
    num_images=500,
    nll_images=32,
    nll_steps=64,
    batch_size=100,
    budget="90 minutes on two CPU cores",
)
ON_DIGITS = dict(data="digits", head_width=64)  # one level, whose attention takes 64 channels
MNIST_SMOKE = replace(
    MNIST_CPU,
    **ON_DIGITS,
    models=_models(
        (SCORE_PRESETS["digits"][0], ScoreTraining(steps=4, batch_size=8)),
        _preset(DDPM_PRESETS, "digits-ddpm", steps=3, batch_size=8, num_steps=20),
        (VAE_PRESETS["digits-vae"][0], VAETraining(steps=3, batch_size=8)),
        edm_steps=3,
        ddpm_steps=4,
    ),
    feature_training=ClassifierTraining(epochs=1),
    recipes=_heads(1, 1, eval_images=20),
    num_data=160,
    num_images=40,
    num_sets=2,
    num_reference=200,
    nll_images=4,
    nll_steps=3,
    batch_size=40,
    budget="seconds; meaningless",
)


MNIST_SECTIONS = (
    *("results", "costs", "guidance", "discriminators", "pairs", "strips", "likelihood"),
    *("models", "images", "deviations", "run"),
)


def mnist(setting: Setting) -> Study:
    """EDM against DDPM and VAE in training time, sampling speed, likelihood and distance; and
    guidance of two of them."""
    systems = {}
    for model, weight in (("edm", (2.0, 0.0)), ("ddpm", (1.0, 0.0)), ("vae", None)):
        title = setting.models[model].title
        systems[model] = System(title, model=model, against=None)
        if weight is not None:
            systems[f"{model}_guided"] = System(
                f"{title}, guided", (Head(model),), weight, model=model, against=model
            )
    return Study(
        "MNIST: EDM against DDPM and VAE",
        "Three generative models trained from scratch, and what a U-Net discriminator trained from "
        "scratch adds to the two diffusion models.",
        systems,
        nll=True,
        trainings={
            model: Training("none", recipe, setting.head_width, model)
            for model, recipe in setting.recipes.items()
        },
        aside=("ddpm", "ddpm_guided"),
        sections=MNIST_SECTIONS,
    )


def _deviations(setting: Setting) -> tuple[str, ...]:
    """What the comparison cannot claim, by its numbers."""
    ddpm = setting.models["ddpm"]
    training, seen = ddpm.training[1], ddpm.training[1].steps * ddpm.training[1].batch_size
    return (
        f"The DDPM has seen {seen:,} training images ({seen / 60_000:.1f} epochs of MNIST; "
        "MNISTDiffusion trains for "
        "100 epochs). None of the models is at its best.",
        f"DDPM samples by DDIM in {ddpm.sampling.num_steps} of its {training.num_steps:,} steps, "
        f"clipped to [-1, 1]; EDM by {setting.models['edm'].sampling.num_steps} Heun steps. The "
        "VAE shows the means of its pixels.",
        "The VAE is no strong one (published ones with more latents and flows do better); it is "
        "here as the comparison that MNIST projects usually make.",
    )


STUDIES: dict[str, Callable[[Setting], Study]] = {
    "digits": digits,
    "mnist": mnist,
    "mnist-cond": mnist,
}


def setting_of(name: str, profile: str = "full", gpu: bool = False) -> Setting:
    """The setting of an experiment: "full" for a GPU or a CPU, or "smoke"."""
    if name == "digits":
        return DIGITS if profile == "full" else DIGITS_SMOKE
    setting = MNIST_SMOKE if profile == "smoke" else MNIST_GPU if gpu else MNIST_CPU
    return replace(setting, conditional=name == "mnist-cond", deviations=_deviations(setting))


def with_available_data(setting: Setting, notify: Callable[[str], None]) -> Setting:
    """The same, on the embedded digits where MNIST cannot be had."""
    if setting.data != "mnist":
        return setting
    try:
        load_images("mnist", 1)
    except ValueError as error:
        notify(f"{error}; going on with the embedded digits (8 x 8), as no other data are given")
        return replace(setting, **ON_DIGITS)
    return setting
