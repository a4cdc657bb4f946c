"""EDM, DDPM and VAE, and what a discriminator adds to the two diffusion models: on MNIST, CIFAR-10
and ImageNet, each also with classes (NAME-cond).
"""

from dataclasses import replace

from dg.evaluation.classifier import ClassifierTraining
from dg.experiments.setting import CORE, Model, Setting
from dg.experiments.settings import tiny
from dg.experiments.study import Head, Study, System, Training
from dg.models.discrete_sampling import DDPMSampling
from dg.models.vae_sampling import VAESampling
from dg.pretraining.presets import DDPM_PRESETS, SCORE_PRESETS, VAE_PRESETS
from dg.recipes import PRESETS
from dg.sampling import Sampling


def _models(
    edm, ddpm, vae, edm_steps: int, ddpm_steps: int, edm_published: str | None = None
) -> dict[str, Model]:
    return {
        "edm": Model("edm", edm, Sampling(edm_steps), "EDM", edm_published),
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
    ddpm_steps=(1000, 250, 50),
    num_test_loss=256,
    num_snapshots=8,
    bound_images=1000,
    budget="one GPU",
)
# Every model sees 96,000 images, 1.6 epochs where MNISTDiffusion takes a hundred: 90 minutes on two
# CPU cores, and hours more for the many steps of a DDPM.
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
    budget="five hours on two CPU cores",
)
# The EDM network that ships, and the others trained with as many multiply-adds: the passes of 2.56
# million images by 14.7 million each, which are 24.1 million of the DDPM and 16.8 of the VAE.
MNIST_14 = replace(
    MNIST_CPU,
    title="MNIST at 14 × 14 pixels, three models of equal training compute",
    order="own",
    pool=2,
    models=_models(
        SCORE_PRESETS["mnist-14"],
        _preset(
            DDPM_PRESETS["mnist-ddpm-small"],
            dict(channel_mult=[1, 1], num_head_channels=32),
            **dict(steps=24_400, batch_size=64, ema_halflife=100_000),
        ),
        _preset(MNIST_VAE, dict(channel_mult=[1, 2]), steps=35_000, batch_size=64),
        edm_steps=18,
        ddpm_steps=50,
        edm_published="mnist-14",
    ),
    classifier="mnist-14-noisy-classifier",
    features="mnist-14-features",
    streamed=True,
    other_reference="mnist-14-ref-random-vgg",
    metrics=(*CORE, "fd_random_vgg"),
    decimals=dict(fd=2, kid=2, precision=3, recall=3, fd_random_vgg=4),
    recipes=dict.fromkeys(("edm", "ddpm"), PRESETS["mnist-14"]),
    window=(0.01, 0.5),
    candidates=(1.0, 2.0, 4.0, 6.0),
    num_data=5000,
    num_real=10_000,
    num_snapshots=8,
    nll_images=128,
    budget="five hours on two CPU cores",
    deviations=(
        "MNIST averaged over squares of 2 × 2 pixels. The discriminators are heads on the "
        "noise-aware classifier that ships, and their weights are chosen on other seeds.",
    ),
)
# The same on photographs: 1.024 million images by 29.7 million multiply-adds each, which are 39.4
# million of the DDPM and 25.1 of the VAE.
CIFAR10_16 = replace(
    MNIST_14,
    title="CIFAR-10 at 16 × 16 pixels, three models of equal training compute",
    data="cifar10",
    models=_models(
        SCORE_PRESETS["cifar10-16"],
        _preset(
            DDPM_PRESETS["mnist-ddpm-small"],
            dict(attention_resolutions=[8], num_head_channels=32),
            **dict(steps=12_000, batch_size=64, ema_halflife=50_000, flip=True),
        ),
        _preset(MNIST_VAE, dict(latent_dim=64), steps=18_900, batch_size=64, flip=True),
        edm_steps=18,
        ddpm_steps=50,
        edm_published="cifar10-16",
    ),
    classifier="cifar10-16-noisy-classifier",
    features="cifar10-16-features",
    other_reference=None,
    recipes=dict.fromkeys(
        ("edm", "ddpm"), replace(PRESETS["mnist-14"], lr=3e-4, epochs=10, flip=True)
    ),
    head_width=64,
    candidates=(4.0, 8.0, 16.0),
    deviations=(
        "The networks learned from JPEGs of CIFAR-10, averaged over squares of 2 × 2 pixels; no "
        "number here compares with a published one. The discriminators are heads on the "
        "noise-aware classifier that ships, and their weights are chosen on other seeds.",
    ),
)
# For a GPU: every model sees 20.5 million images.
CIFAR10 = replace(
    MNIST_GPU,
    title="CIFAR-10, three models trained here",
    data="cifar10",
    order="own",
    models=_models(
        _preset(SCORE_PRESETS["cifar10-models"]),
        _preset(DDPM_PRESETS["cifar10-ddpm"]),
        _preset(VAE_PRESETS["cifar10-vae"]),
        edm_steps=18,
        ddpm_steps=100,
    ),
    feature_training=ClassifierTraining(batch_size=128, max_shift=4),
    num_data=50_000,
    budget="days of a GPU",
)
# The same at twice the size: every model sees 25.6 million images.
IMAGENET64 = replace(
    CIFAR10,
    title="ImageNet at 64 × 64 pixels, three models trained here",
    data=None,
    resolution=64,
    models=_models(
        _preset(SCORE_PRESETS["imagenet64-models"]),
        _preset(DDPM_PRESETS["imagenet64-ddpm"]),
        _preset(VAE_PRESETS["imagenet64-vae"]),
        edm_steps=40,
        ddpm_steps=100,
    ),
    feature_training=ClassifierTraining(epochs=5, batch_size=128, max_shift=4),
    num_features=100_000,
    num_images=5000,
    batch_size=100,
    budget="weeks of a GPU",
)
ON_DIGITS = dict(data="digits", head_width=64)  # one level, whose attention takes 64 channels
SMOKE = replace(
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
    ddpm_steps=(20, 5),
    num_snapshots=3,
    bound_images=4,
    bound_terms=2,
    budget="seconds; meaningless",
    **tiny(40),
)
SECTIONS = (
    *("results", "costs", "guidance", "choices", "discriminators", "pairs", "strips"),
    *("likelihood", "bounds", "models", "images", "deviations", "run"),
)


def three_models(setting: Setting) -> Study:
    """EDM against DDPM and VAE, and what guidance does to the two that it can guide."""
    systems = {}
    for model, entry in setting.models.items():
        systems[model] = System(entry.title, model=model, against=None)
        if model in setting.recipes:
            systems[f"{model}_guided"] = _guided(setting, model)
    for method, told in (("ancestral", "ancestral"), ("ddim", "DDIM")):
        line = f"DDPM, {told}"
        for steps in setting.ddpm_steps:
            sampling = DDPMSampling(method, num_steps=steps)
            how = dict(model="ddpm", against=None, sampling=sampling, line=line)
            systems[f"ddpm_{method}_{steps}"] = System(f"{line}, {steps:,} steps", **how)
    extractor, head = "none", "a U-Net trained from scratch"
    if setting.classifier:
        extractor, head = "classifier", "a head on a noise-aware classifier"
    return Study(
        f"{setting.title.partition(',')[0]}: EDM against DDPM and VAE",
        f"Three generative models, and what a discriminator, {head}, adds to the two diffusion "
        "models.",
        systems,
        nll=True,
        trainings={
            model: Training(extractor, recipe, setting.head_width, model)
            for model, recipe in setting.recipes.items()
        },
        aside=tuple(name for name in systems if systems[name].model == "ddpm"),
        sections=SECTIONS,
    )


WEIGHTS = {"edm": (2.0, 0.0), "ddpm": (1.0, 0.0)}  # where none are chosen


def _guided(setting: Setting, model: str) -> System:
    """A diffusion model with guidance, by the weight that other seeds choose where the setting has
    candidates."""
    name, heads = f"{model}_guided", (Head(model),)
    told = dict(model=model, against=model)
    options = tuple(
        System(f"weight {weight:g}", heads, (weight, 0.0), model=model)
        for weight in setting.candidates
    )
    chosen = dict(options=options, choice=name) if options else dict(weights=WEIGHTS[model])
    return System(f"{setting.models[model].title}, guided", heads, **told, **chosen)


def _deviations(base: str, setting: Setting) -> tuple[str, ...]:
    """What the comparison cannot claim, by its numbers."""
    ddpm, edm = setting.models["ddpm"], setting.models["edm"]
    training, seen = ddpm.training[1], ddpm.training[1].steps * ddpm.training[1].batch_size
    epoch, others = PUBLISHED[base]
    found = (
        f"The DDPM has seen {seen:,} training images ({seen / epoch:.1f} epochs; {others}). None "
        "of the models is at its best.",
        f"DDPM samples by DDIM in {ddpm.sampling.num_steps} of its {training.num_steps:,} steps, "
        f"clipped to [-1, 1]; EDM by {edm.sampling.num_steps} Heun steps. The VAE shows the means "
        "of its pixels.",
        "The VAE is no strong one (published ones with more latents and flows do better); it is "
        "here as the comparison that such projects usually make.",
    )
    return (*found, *setting.deviations)


# By experiment: its settings for a CPU and for a GPU.
SETTINGS = {
    "mnist": (MNIST_CPU, MNIST_GPU),
    "models-mnist-14": (MNIST_14, MNIST_14),
    "models-cifar10-16": (CIFAR10_16, CIFAR10_16),
    "models-cifar10": (CIFAR10, CIFAR10),
    "models-imagenet64": (IMAGENET64, IMAGENET64),
}
# By experiment: images of an epoch, and how long others train.
_EDM_CIFAR10 = "Karras et al. 2022 train EDM on 200 million images"
PUBLISHED = {
    "mnist": (60_000, "MNISTDiffusion trains for 100 epochs"),
    "models-mnist-14": (60_000, "MNISTDiffusion trains for 100 epochs"),
    "models-cifar10-16": (50_000, _EDM_CIFAR10),
    "models-cifar10": (50_000, _EDM_CIFAR10),
    "models-imagenet64": (1_281_167, "Karras et al. 2022 train EDM on 2.5 billion images"),
}
COND = "-cond"  # end of the name of an experiment with classes
NAMES = tuple(name + end for name in SETTINGS for end in ("", COND))


def setting_of(name: str, profile: str = "full", gpu: bool = False) -> Setting:
    """The setting of an experiment: "full" for a GPU or a CPU, or "smoke"."""
    base, conditional = name.removesuffix(COND), name.endswith(COND)
    setting = SETTINGS[base][gpu]
    if conditional:  # what ships knows no classes
        setting = setting.from_scratch()
    if profile == "smoke":
        candidates = (1.0, 2.0) if setting.candidates else ()
        setting = replace(SMOKE, title=f"Smoke test of: {setting.title}", candidates=candidates)
    deviations = _deviations(base, setting)
    return replace(setting, conditional=conditional, deviations=deviations)
