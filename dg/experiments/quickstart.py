"""The experiment that `python reproduce.py` runs: a network that ships with the repository, a
discriminator trained in minutes, and what its guidance changes."""

from dataclasses import replace

from dg.evaluation.classifier import ClassifierTraining
from dg.experiments.setting import Model, Setting
from dg.experiments.settings import shipped, tiny
from dg.experiments.study import Head, Study, System, Training
from dg.pretraining.presets import SCORE_PRESETS, NoisyClassifierTraining
from dg.recipes import PRESETS
from dg.runtime.pretrained import training_curve
from dg.sampling import Sampling

NETWORK = "mnist-14"
WINDOW = (0.01, 0.3)  # VP time of guidance: noise levels up to 1.2, above which a head sees little
EPOCHS = 5  # of the six of the preset: the whole experiment is to take six minutes
QUICKSTART = replace(
    shipped(NETWORK, "MNIST, 14 × 14 pixels", "mnist-small-14"),
    recipes={"head": replace(PRESETS[NETWORK], epochs=EPOCHS)},
    candidates=(4.0, 8.0),
    num_data=4500,
    num_real=10_000,
    num_selection=300,
    parallel_training=True,
)
QUICKSTART_SMOKE = replace(
    QUICKSTART,
    title="Smoke test of: MNIST, 14 × 14 pixels",
    data="digits",
    models={
        "score": Model(
            training=(SCORE_PRESETS["digits"][0], replace(SCORE_PRESETS["digits"][1], steps=4)),
            sampling=Sampling(num_steps=3),
        )
    },
    classifier=None,
    noisy_classifier=NoisyClassifierTraining(
        steps=2, batch_size=8, channel_mult=(1, 2), attention_resolutions=(4,)
    ),
    features="classifier",
    feature_training=ClassifierTraining(epochs=1),
    other_reference=None,
    recipes={"head": replace(PRESETS[NETWORK], epochs=2, eval_images=20)},
    candidates=(1.0, 2.0),
    num_selection=80,
    **tiny(80),
)
SECTIONS = ("results", "pairs", "strips", "discriminators", "ratios", "selection", "run")


def quickstart(setting: Setting) -> Study:
    """The same seeds without and with guidance."""
    guided = System("guided", (Head("head", "last"),), weights="chosen", window=WINDOW)
    caption = (
        "FD: Fréchet distance to test images that no network has seen. FD random VGG: the same in "
        "features of a VGG16 with random weights, which nobody has trained on anything."
    )
    # The last checkpoint has guided better than the one of lowest validation loss, on the seeds of
    # the weight's choice.
    head = (
        "A small head on the features of a frozen classifier of noisy images, as in the paper. It "
        "learns to tell real from generated images, and its logit estimates the log density ratio "
        "whose gradient corrects the score."
    )
    known, told = _shorter(setting)
    return Study(
        "Discriminator guidance on a network that ships",
        "A trained diffusion model, sampled from the same seeds without and with guidance.",
        {"unguided": System("unguided"), "guided": guided},
        trainings={"head": Training("classifier", setting.recipes["head"])},
        aside=("unguided",),
        sections=SECTIONS,
        texts={"caption": (caption, *told), "discriminators": (head,)},
        known=known,
    )


def _shorter(setting: Setting) -> tuple[dict[str, dict], tuple[str, ...]]:
    """The network that ships after a quarter of its training, by its curve: a row of the table, and
    a sentence. Nothing where other seeds or images are measured than for the curve."""
    name, sizes = setting.models["score"].published, (setting.num_sets, setting.num_images)
    same = sizes == (QUICKSTART.num_sets, QUICKSTART.num_images)
    points = training_curve(name) if name and same else []
    before = [point for point in points if 4 * point["images"] <= points[-1]["images"]]
    if not before:
        return {}, ()
    first, last = before[-1], points[-1]
    sentence = (
        "Training the network itself for four times as long, from {:,} to {:,} images, has lowered "
        "the unguided FD on these seeds from {:.2f} to {:.2f} (the curve stands in "
        "pretrained/README.md)."
    )
    fd = [point["unguided"]["fd"]["mean"] for point in (first, last)]
    told = sentence.format(first["images"], last["images"], *fd)
    return {"unguided, a quarter of the training": first["unguided"]}, (told,)
