"""ImageNet at 256 pixels: which published files, systems and sizes, as plain data."""

from dataclasses import dataclass, replace

from dg.models.discrete_sampling import DDPMSampling
from dg.models.dit import DG_TIME_MIN
from dg.recipes import PRESETS, DiscriminatorTraining


@dataclass(frozen=True)
class System:
    """One way to sample; measured on the same seeds as every other.

    head      None, "trained" here, or the name of a published one
    time_min  VP time below which the discriminator does not guide
    """

    title: str
    sampling: DDPMSampling
    head: str | None = None
    weight: float = 1.0
    time_min: float = 0.01
    published: str | None = None  # a system in stats/published.json


@dataclass(frozen=True)
class Setting:
    """Published files, by the names of `dg.runtime.catalogue` or as paths, and what is done with
    them.

    vae         None: images are diffused, not latents
    classifier  of noisy images or latents, under the discriminator and, of ADM, for classifier
                guidance
    fake        how the discriminator's generated images are drawn
    part        images of a part, which one process makes alone
    operations  multiply-adds of one evaluation of the network for one image, and of the classifier
                forth and back, which is twice forth: frozen weights have no gradients
    swept       whether the best of the systems by FID and by recall are named
    shares      the experiment whose stages are taken where they are the same
    """

    title: str
    network: str
    vae: str | None
    classifier: str
    systems: dict[str, System]
    fake: DDPMSampling
    recipe: DiscriminatorTraining
    num_data: int = 50_000
    num_images: int = 50_000
    part: int = 1000
    batch_size: int = 25
    resolution: int = 256
    reference: str = "adm-ref-imagenet-256"
    features: str = "inception"
    operations: tuple[float, float] = (0.0, 0.0)
    deviations: tuple[str, ...] = ()
    swept: bool = False
    shares: str | None = None


def _dit(**changes) -> DDPMSampling:
    return DDPMSampling("ancestral", 250, clip_denoised=False, **changes)


SWITCHED = dict(LT_cfg=1.25, ST_cfg=3.0, branch_time=200)
DIT_G = _dit(LT_cfg=1.5, ST_cfg=1.5)
DIT_GUIDED = System(
    "DiT-XL/2-G++, discriminator trained here",
    _dit(**SWITCHED),
    "trained",
    time_min=DG_TIME_MIN,
    published="DiT-XL/2-G++",
)
DIT = Setting(
    title="DiT-XL/2 on ImageNet at 256 pixels",
    network="dit-xl-2-256",
    vae="sd-vae-ft-mse",
    classifier="dg-imagenet256-classifier",
    fake=DIT_G,
    recipe=PRESETS["imagenet-latent"],
    operations=(114e9, 2 * 2.4e9),
    systems={
        "unguided": System("DiT-XL/2-G, scale 1.5", DIT_G, published="DiT-XL/2-G (cfg 1.5)"),
        "switched": System("scale 1.25 above t = 200, 3 below, no discriminator", _dit(**SWITCHED)),
        "released": replace(
            DIT_GUIDED,
            title="DiT-XL/2-G++, the authors' discriminator",
            sampling=_dit(**SWITCHED, dg_time="step"),
            head="dg-imagenet256-discriminator",
        ),
        "guided": DIT_GUIDED,
    },
    deviations=(
        "How many generated images the authors trained on is not published; here 50,000.",
        "The authors save generated images as JPEG before they encode them; here they are encoded "
        "as they were drawn.",
        "Images are encoded by the autoencoder that decodes, sd-vae-ft-mse; the authors encode "
        "with sd-vae-ft-ema.",
    ),
)
ADM_G = DDPMSampling("ancestral", 250, classifier_scale=1.0)
ADM = Setting(
    title="ADM on ImageNet at 256 pixels",
    network="adm-256",
    vae=None,
    classifier="adm-256-classifier",
    fake=ADM_G,
    num_data=25_000,
    operations=(1114e9, 2 * 72e9),
    recipe=replace(PRESETS["authors-cond"], epochs=20, batch_size=128, split=(0.9, 0.1, 0.0)),
    systems={
        "unguided": System("ADM", DDPMSampling("ancestral", 250), published="ADM"),
        "classifier": System("ADM-G, classifier scale 1", ADM_G, published="ADM-G"),
        "guided": System(
            "ADM-G++, discriminator trained here", ADM_G, "trained", published="ADM-G++"
        ),
    },
    deviations=(
        "The authors' code for ADM-G++ was never released: extractor (the classifier that guides), "
        "25,000 images of each kind, 20 epochs and a weight of 1 are choices of this project.",
    ),
)
ADM_SCALES, ADM_WEIGHTS = (0.0, 0.5, 1.0), (0.0, 1.0, 2.0, 4.0)


def _weighted(scale: float, weight: float) -> System:
    """ADM with these two weights."""
    title = f"classifier {scale:g}, discriminator {weight:g}"
    sampling = replace(ADM_G, classifier_scale=scale or None)
    return System(title, sampling, "trained" if weight else None, weight)


ADM_SWEPT = replace(
    ADM,
    title="ADM on ImageNet at 256 pixels: weights of classifier and discriminator",
    systems={
        f"s{scale:g}-w{weight:g}": _weighted(scale, weight)
        for scale in ADM_SCALES
        for weight in ADM_WEIGHTS
    },
    num_images=10_000,
    deviations=(
        *ADM.deviations,
        "10,000 images of a system have a larger FID than 50,000. The best of many is also best by "
        "chance: measure the chosen weights on other seeds.",
        "One discriminator guides at every scale; it was trained on images of scale 1.",
    ),
    swept=True,
    shares="imagenet-adm",
)
SETTINGS = {"imagenet-dit": DIT, "imagenet-adm": ADM, "imagenet-adm-weights": ADM_SWEPT}
