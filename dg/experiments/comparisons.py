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
from dg.experiments.quickstart import QUICKSTART, QUICKSTART_SMOKE, quickstart
from dg.experiments.settings import CORE, Model, Setting, tiny
from dg.experiments.study import Head, Study, System, Training
from dg.models.discrete_sampling import DDPMSampling
from dg.models.vae_sampling import VAESampling
from dg.pretraining.presets import DDPM_PRESETS, SCORE_PRESETS, VAE_PRESETS
from dg.recipes import PRESETS
from dg.sampling import Sampling

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


# EDM, DDPM and VAE --------------------------------------------------------------------------------


def _models(edm, ddpm, vae, edm_steps: int, ddpm_steps: int) -> dict[str, Model]:
    return {
        "edm": Model("edm", edm, Sampling(edm_steps), "EDM"),
        "ddpm": Model("ddpm", ddpm, DDPMSampling("ddim", num_steps=ddpm_steps), "DDPM"),
        "vae": Model("vae", vae, VAESampling(), "VAE"),
    }


def _preset(preset, width: dict | None = None, **changes) -> tuple:
    """A preset's network, with other arguments, and its training, with changes."""
    network, training = preset
    return network | (width or {}), replace(training, **changes)


def _heads(edm: int, ddpm: int, **changes) -> dict:
    """The default recipe for so many epochs."""
    epochs = {"edm": edm, "ddpm": ddpm}
    return {model: replace(PRESETS["default"], epochs=n, **changes) for model, n in epochs.items()}


MNIST_EDM, MNIST_VAE = SCORE_PRESETS["mnist"], VAE_PRESETS["mnist-vae"]
WIDE_EDM = dict(steps=23_450, batch_size=256, lr=1e-3, ema_halflife=50_000, precision="bfloat16")
MNIST_GPU = Setting(
    title="MNIST, three models trained here",
    data="mnist",
    order="shared",
    models=_models(
        _preset(MNIST_EDM, dict(model_channels=64), **WIDE_EDM),
        _preset(DDPM_PRESETS["mnist-ddpm"], precision="bfloat16"),
        _preset(MNIST_VAE, dict(width=64), steps=46_900),
        edm_steps=18,
        ddpm_steps=100,
    ),
    recipes=_heads(15, 15),
    head_width=64,
    feature_training=ClassifierTraining(epochs=6, batch_size=128),
    streamed=False,
    num_reference=10_000,
    metrics=(*CORE, "fid", "agreement"),
    num_data=20_000,
    num_images=10_000,
    nll_steps=128,
    batch_size=250,
    num_test_loss=256,
    num_snapshots=8,
    bound_images=1000,
    budget="one GPU",
)
# What two CPU cores do in 90 minutes: every model sees 96,000 images, 1.6 epochs where
# MNISTDiffusion takes a hundred.
MNIST_CPU = replace(
    MNIST_GPU,
    models=_models(
        _preset(MNIST_EDM, steps=1500),
        _preset(DDPM_PRESETS["mnist-ddpm-small"], steps=1500, batch_size=64),
        _preset(MNIST_VAE, steps=1500, batch_size=64),
        edm_steps=12,
        ddpm_steps=25,
    ),
    # EDM's images are harder to tell from real ones: 10 epochs taught its discriminator little.
    recipes=_heads(20, 10, eval_images=300),
    head_width=32,
    feature_training=ClassifierTraining(epochs=2, batch_size=128),
    num_data=2000,
    num_images=500,
    nll_images=32,
    nll_steps=64,
    num_snapshots=5,
    bound_images=256,
    batch_size=100,
    budget="90 minutes on two CPU cores",
)
ON_DIGITS = dict(data="digits", head_width=64)  # one level, whose attention takes 64 channels
MNIST_SMOKE = replace(
    MNIST_CPU,
    **ON_DIGITS,
    models=_models(
        _preset(SCORE_PRESETS["digits"], steps=4, batch_size=8),
        _preset(DDPM_PRESETS["digits-ddpm"], steps=3, batch_size=8, num_steps=20),
        _preset(VAE_PRESETS["digits-vae"], steps=3, batch_size=8),
        edm_steps=3,
        ddpm_steps=4,
    ),
    feature_training=ClassifierTraining(epochs=1),
    recipes=_heads(1, 1, eval_images=20),
    num_reference=200,
    nll_images=4,
    nll_steps=3,
    num_snapshots=3,
    bound_images=4,
    bound_terms=2,
    budget="seconds; meaningless",
    **tiny(40),
)
MNIST_SECTIONS = (
    *("results", "costs", "guidance", "discriminators", "pairs", "strips", "likelihood"),
    *("bounds", "models", "images", "deviations", "run"),
)


def mnist(setting: Setting) -> Study:
    """EDM against DDPM and VAE, and what guidance does to the two that it can guide."""
    systems, weights = {}, {"edm": (2.0, 0.0), "ddpm": (1.0, 0.0)}
    for model, entry in setting.models.items():
        systems[model] = System(entry.title, model=model, against=None)
        if model in weights:
            guided = System(f"{entry.title}, guided", (Head(model),), weights[model])
            systems[f"{model}_guided"] = replace(guided, model=model, against=model)
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
    ddpm, edm = setting.models["ddpm"], setting.models["edm"]
    training, seen = ddpm.training[1], ddpm.training[1].steps * ddpm.training[1].batch_size
    return (
        f"The DDPM has seen {seen:,} training images ({seen / 60_000:.1f} epochs of MNIST; "
        "MNISTDiffusion trains for 100 epochs). None of the models is at its best.",
        f"DDPM samples by DDIM in {ddpm.sampling.num_steps} of its {training.num_steps:,} steps, "
        f"clipped to [-1, 1]; EDM by {edm.sampling.num_steps} Heun steps. The VAE shows the means "
        "of its pixels.",
        "The VAE is no strong one (published ones with more latents and flows do better); it is "
        "here as the comparison that MNIST projects usually make.",
    )


STUDIES = {"quickstart": quickstart, "digits": digits, "mnist": mnist, "mnist-cond": mnist}


def setting_of(name: str, profile: str = "full", gpu: bool = False) -> Setting:
    """The setting of an experiment: "full" for a GPU or a CPU, or "smoke"."""
    if name == "quickstart":
        return QUICKSTART if profile == "full" else QUICKSTART_SMOKE
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
