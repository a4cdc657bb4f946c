"""The settings in which studies are run, by name."""

from dataclasses import replace

from dg.evaluation.classifier import ClassifierTraining
from dg.experiments.setting import CORE, Model, Setting
from dg.pretraining.presets import (
    CLASSIFIER_PRESETS,
    SCORE_PRESETS,
    NoisyClassifierTraining,
    ScoreTraining,
)
from dg.sampling import Sampling


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


def _ffhq() -> Setting:
    """The published network of FFHQ; the discriminator's recipe is that of CIFAR-10."""
    fid = dict(source="paper", data="ffhq-64", metric="fid")
    return Setting(
        title="FFHQ at 64 × 64 pixels",
        data=None,
        resolution=64,
        models={"score": Model(published="edm-ffhq-64x64-uncond-vp", sampling=Sampling(36))},
        published_steps=40,
        classifier="adm-64-classifier",
        released="resampling-ffhq-64-discriminator",
        features="inception",
        reference="fid-ref-ffhq-64x64",
        reference_split="train",
        batch_size=250,
        published={
            "unguided-published": [fid | dict(system="EDM")],
            "authors": [fid | dict(system="EDM-G++")],
        },
        deviations=(
            "The published network and statistics are of all 70,000 images of FFHQ. None are left "
            "for tests, so bits/dim and real against real are too good.",
            "The authors' weights, epochs and numbers of images for FFHQ are not known here; those "
            "of CIFAR-10 without classes are taken.",
            "The released discriminator is that of Liu et al. 2024 (particle resampling). They "
            "guide by it with weight 1, doubled at every other step where the log ratio is "
            "negative; here it has the weight of the others.",
        ),
    )


def _celeba() -> Setting:
    """Faces, for the checkpoint of Soft Truncation or a network of one's own."""
    fid = dict(source="paper", data="celeba-64", metric="fid")
    return Setting(
        title="CelebA at 64 × 64 pixels",
        data=None,
        resolution=64,
        models={"score": Model(sampling=Sampling(66))},
        missing="the checkpoint of Soft Truncation (DDPM++, VP, "
        "configs/vp/CELEBA/ddpmpp_fid_st.py of Kim-Dongjun/Soft-Truncation), which is on Google "
        "Drive, or a network of your own, as pretrain.py score trains it",
        classifier="adm-64-classifier",
        features="inception",
        reference_split="train",
        batch_size=250,
        published={
            "unguided": [fid | dict(system="Soft Truncation")],
            "authors": [fid | dict(system="ST-G++")],
        },
        deviations=(
            "Published with the network of Soft Truncation: FID 1.90 unguided and 1.34 guided "
            "(ST-G++), in 131 evaluations.",
            "Heun's method takes as many here, in 66 steps. The paper's weights, epochs and "
            "numbers of images for CelebA are not known here; those of CIFAR-10 without classes "
            "are taken.",
            "Soft Truncation's images are the middle 140 × 140 pixels of those of CelebA. Only of "
            "such images does an FID compare with its own.",
        ),
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
        tuning=replace(SCORE_PRESETS[name][1], lr=1e-4, steps=2000, warmup=0),
        classifier=f"{name}-noisy-classifier",
        shipped=f"{name}-disc",
        discriminator_cost=(2.4, 4.8),
        noisy_classifier=CLASSIFIER_PRESETS[name],
        features=f"{name}-features",
        feature_training=ClassifierTraining(epochs=6),
        other_reference=f"{name}-ref-random-vgg",
        metrics=(*CORE, "fd_random_vgg"),
        decimals=dict(fd=2, kid=2, precision=3, recall=3, fd_random_vgg=4),
        head_width=32,
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
        weights=(4.0, 0.0),  # in this window the choice of the study `given`, on other seeds
        window=(0.01, 0.5),
        candidates=(1.0, 2.0, 4.0, 6.0, 8.0),
        pixel_widths=(32, 64),
        lora_ranks=(4, 32),
        nll_images=100,
        churns=(0.0, 1.0, 2.0, 4.0, 10.0),
        deviations=(
            "5,000 images of each kind instead of 50,000, and a sixth of the published numbers of "
            "epochs, to fit two CPU cores.",
        ),
    )


PHOTOGRAPHS = _studied("cifar10-16", 16, "cifar10")
SMALL_CLASSIFIER = NoisyClassifierTraining(steps=400, batch_size=64, channel_mult=(1, 2))
SETTINGS = {
    "cifar10-uncond": _cifar10(conditional=False),
    "cifar10-cond": _cifar10(conditional=True),
    "ffhq-64": _ffhq(),
    "celeba-64": _celeba(),
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
    "cifar10-16": replace(
        PHOTOGRAPHS,
        title="CIFAR-10 at 16 × 16 pixels, the network that ships",
        order="own",
        pool=2,
        other_reference=None,
        weights=(16.0, 0.0),  # as above
        candidates=(4.0, 8.0, 12.0, 16.0, 24.0),
        discriminator_cost=(0.75, 1.5),
        deviations=(
            "The networks learned from JPEGs of CIFAR-10, averaged over squares of 2 × 2 pixels; "
            "no number here compares with a published one.",
            *PHOTOGRAPHS.deviations,
        ),
    ),
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
        missing=None,
        models={"score": Model(training=score, sampling=Sampling(num_steps=3))},
        tuning=score[1],
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
        num_selection=12,
        nll_images=4,
        nll_steps=2,
        published_steps=setting.published_steps and 4,
        published={},
        **tiny(12),
    )
