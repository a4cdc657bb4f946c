"""Names of all experiments, studies and settings, for `--help`: loads neither torch nor them."""

# Studies that are run in any of SETTINGS; the code is in `studies`.
STUDIES = (
    *("recipes", "extractors", "epochs", "selection", "weights", "window", "churn", "steps"),
    *("significance", "lora", "ensemble", "methods", "gains-add-up", "given", "failures", "cost"),
    "kinds",
)
SETTINGS = (
    "cifar10-uncond",
    "cifar10-cond",
    "ffhq-64",
    "celeba-64",
    "cifar10-jpeg",
    "cifar10-jpeg-16",
    "mnist",
    "mnist-14",
    "mnist-28",
    "cifar10-16",
)
QUICKSTART = "quickstart"
# Studies with a setting of their own, in `comparisons`.
COMPARISONS = (
    *(QUICKSTART, "digits", "mnist", "mnist-cond", "models-mnist-14", "models-mnist-14-cond"),
    *("models-cifar10-16", "models-cifar10-16-cond"),
    *("models-cifar10", "models-cifar10-cond", "models-imagenet64", "models-imagenet64-cond"),
)
IMAGENET = ("imagenet-dit", "imagenet-adm", "imagenet-adm-weights")
TWO_GAUSSIANS = "two-gaussians"
EXPERIMENTS = (*COMPARISONS, TWO_GAUSSIANS, *IMAGENET)
DEFAULT_SETTING = {"churn": "cifar10-cond"}  # of a study; of every other the first of SETTINGS


def known_names() -> list[str]:
    """Every name that `reproduce.py` takes, once."""
    return list(dict.fromkeys((*EXPERIMENTS, *SETTINGS, *STUDIES)))
