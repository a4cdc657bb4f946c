"""Discriminators on disk. The file of a head names the extractor that it was trained on; it is not
loaded on another one."""

from dataclasses import asdict
from pathlib import Path

from torch import nn

from dg.calibration import Calibration
from dg.discriminator import (
    Discriminator,
    MixedDiscriminator,
    ScoreDifference,
    member_weights,
)
from dg.extractors import Extractor, StageExtractor, build_extractor
from dg.fingerprints import fingerprint
from dg.heads import DifferenceHead, FinetunedHead, ScoreHead, attention_channels
from dg.lora import load_lora, merge_lora
from dg.runtime.files import atomic_write
from edm.checkpoint import (
    build,
    load_strictly,
    read_config,
    read_safetensors,
    write_safetensors,
)
from guided_diffusion import load_encoder
from tensor_files.reading import FileError
from tensor_files.safetensors_files import is_safetensors

FORMAT = "discriminator-head"
# whose files hold their arguments
HEADS = {kind.__name__: kind for kind in (ScoreHead, FinetunedHead, DifferenceHead)}
NEEDED = dict(head=str, head_kwargs=dict, extractor=str)  # in the metadata of a head
OPTIONAL = dict(fingerprint=str | None, schedule=str | None, training=dict, calibration=dict)


class MissingLoRA(ValueError):
    """The LoRA that a head was trained with is not given."""


def save_head(path, head: nn.Module, extractor: Extractor, training: dict | None = None) -> None:
    """Write a head as safetensors. Its metadata names the extractor and the settings of its
    training."""
    config = {
        "head": type(head).__name__,
        "head_kwargs": head.config if type(head).__name__ in HEADS else {},
        "extractor": extractor.kind,
        "fingerprint": extractor.frozen and fingerprint(extractor.frozen),
        "schedule": extractor.schedule,
        "training": training or {},
    }
    with atomic_write(path) as file:
        write_safetensors(file, head.state_dict(), FORMAT, config)


def save_calibrated(path, head_path, calibration: Calibration) -> None:
    """Write a copy of a head's file with a calibration in its metadata, in place of an older
    one."""
    head, config = _load_head(Path(head_path))
    bare = {"head": type(head).__name__, "head_kwargs": {}}  # where the file is the authors'
    with atomic_write(path) as file:
        config = bare | config | {"calibration": asdict(calibration)}
        write_safetensors(file, head.state_dict(), FORMAT, config)


def trained_head(folder: Path) -> Path:
    """Return the file of the head of lowest validation loss, or of the last head if no images are
    kept for validation."""
    best = folder / "best.safetensors"
    return best if best.exists() else folder / "last.safetensors"


def training_of(path) -> dict:
    """The settings of its training that a head's file tells; nothing in a published one."""
    return _load_head(Path(path))[1].get("training", {})


def load_discriminator(
    classifier_path=None,
    head_path=None,
    net=None,
    weights=None,
    device="cpu",
    lora_path=None,
    average="logits",
    lora_rank=None,
    calibrated=False,
) -> Discriminator | MixedDiscriminator:
    """A frozen discriminator from files.

    classifier_path  the ADM classifier's bare state dict, where a head was trained on its features
    head_path        a head of this project (.safetensors), a bare state dict of the authors' (.pt),
                     or a list of them, perhaps on different extractors
    net              the score network, where a head was trained on its encoder
    weights, average  as in `Discriminator`
    lora_path        low-rank update that the head was trained with, merged: into the classifier,
                     where it costs nothing, or into a copy of the score network
    lora_rank        which that update must have; None: any
    calibrated       divide logits by the temperatures that the files of the heads hold

    Raises ValueError with one line that names the file: missing, damaged, or trained on another
    extractor.
    """
    paths = [
        Path(p)
        for p in (head_path if isinstance(head_path, (list, tuple)) else [head_path])
        if p is not None
    ]
    if not paths:
        raise FileError("no discriminator is given; give the path of a head")
    loaded = [_load_head(path) for path in paths]
    for path, (head, _) in zip(paths, loaded, strict=True):
        if isinstance(head, DifferenceHead):
            raise FileError(
                f"{path}: its head gives a difference of scores, which has no log ratio; give a "
                "discriminator's"
            )
    members = [(path, *one) for path, one in zip(paths, loaded, strict=True)]
    from_files = dict(classifier_path=classifier_path, net=net, calibrated=calibrated)
    from_files |= dict(lora_path=lora_path, lora_rank=lora_rank)
    if len({config["extractor"] for _, config in loaded}) > 1:
        discriminator = _mixed(members, weights, average, from_files)
    else:
        discriminator = _on_one_extractor(members, weights, average, **from_files)
    return discriminator.to(device).eval().requires_grad_(False)


def _on_one_extractor(
    members: list, weights, average, classifier_path, net, calibrated, lora_path, lora_rank
) -> Discriminator:
    """Of heads on one extractor; members: (path, head, metadata) of each."""
    (path, _, config), *_ = members
    extractor = _extractor_of(config, classifier_path, net, path)
    for path, _, config in members:
        _check_trained_on(config, extractor, path)
    _adapt(extractor, lora_path, lora_rank, members)
    heads = [head for _, head, _ in members]
    scales = [_calibration(config, path) for path, _, config in members] if calibrated else None
    return Discriminator(extractor, heads, weights, average, scales)


def _mixed(members: list, weights, average, from_files: dict) -> MixedDiscriminator:
    """Of heads on different extractors: a weighted sum of logits for each of them."""
    kinds = list(dict.fromkeys(config["extractor"] for *_, config in members))
    told = f"{members[0][0]}: the heads of the ensemble need different extractors "
    told += f"({', '.join(sorted(kinds))})"
    if average not in ("logits", "sum"):
        raise FileError(f"{told}; of those average is logits or sum, not {average}")
    if from_files["lora_path"] is not None:
        raise FileError(f"{told}, but a LoRA is of one; give heads of that one, or no LoRA")
    weights, parts = member_weights(weights, len(members), average).tolist(), []
    for kind in kinds:
        inside = [
            place for place, (*_, config) in enumerate(members) if config["extractor"] == kind
        ]
        own = [weights[place] for place in inside]
        if sum(own) <= 0:
            raise FileError(f"{told}; the weights on {kind} have no positive sum: leave it out")
        chosen = [members[place] for place in inside]
        parts.append(_on_one_extractor(chosen, own, "sum", **from_files))
    return MixedDiscriminator(parts)


def holds_difference(head_path) -> bool:
    """Whether a file of a head is that of a `ScoreDifference`, and not of a discriminator. Its
    weights are not read."""
    path = Path(head_path)
    own = path.is_file() and _own_format(path)
    return own and read_config(path).get("head") == DifferenceHead.__name__


def load_difference(head_path, net, device="cpu") -> ScoreDifference:
    """A frozen `ScoreDifference` from the file of its head; `net` is the score network that it was
    trained on.

    Raises ValueError with one line that names the file, as `load_discriminator` does.
    """
    path = Path(head_path)
    head, config = _load_head(path)
    if not isinstance(head, DifferenceHead):
        raise FileError(f"{path}: its head is a discriminator's; load it as a discriminator")
    if net is None:
        raise FileError(f"{path}: was trained on a score network's encoder; give that network")
    extractor = StageExtractor(net)
    _check_trained_on(config, extractor, path)
    return ScoreDifference(extractor, head).to(device).eval().requires_grad_(False)


def _load_head(path: Path) -> tuple[nn.Module, dict]:
    if not path.is_file():
        raise FileError(f"{path}: no such discriminator; train one with train.py")
    if not _own_format(path):
        head = load_encoder(path)
        return head, {"extractor": "none" if head.in_channels <= 4 else "classifier"}
    config, tensors = read_safetensors(path, FORMAT, *NEEDED, **NEEDED, **OPTIONAL)
    if config["head"] == "EncoderUNetModel":
        try:
            return load_encoder(tensors, **_attention_of(tensors)), config
        except ValueError as error:
            raise FileError(str(error).replace("the state dict", str(path), 1)) from None
    if (config["head"] == "FinetunedHead") != (config["extractor"] == "finetuned"):
        raise FileError(
            f"{path}: its head {config['head']} does not go with the extractor "
            f"{config['extractor']}; make the file again"
        )
    head = build(HEADS.get(config["head"], ScoreHead), config["head_kwargs"], tensors, path)
    load_strictly(head, tensors, path)
    return head, config


def _own_format(path: Path) -> bool:
    with open(path, "rb") as file:
        return is_safetensors(file.read(9))


def _attention_of(tensors: dict) -> dict:
    """The setting of an ADM head that its tensors do not show, by its width, which they do."""
    first = tensors.get("time_embed.0.weight")  # [4 width, width]
    if first is None or first.ndim != 2:
        return {}  # no ADM head: its reader says so
    return {"num_head_channels": attention_channels(first.shape[1])}


def _extractor_of(config: dict, classifier_path, net, path) -> Extractor:
    """Build the extractor that a head was trained on from the caller's classifier or network."""
    kind = config["extractor"]
    if kind == "score" and net is None:
        raise FileError(f"{path}: was trained on a score network's encoder; give that network")
    if kind == "classifier" and classifier_path is None:
        raise FileError(f"{path}: works on a classifier's features; give that classifier")
    try:
        return build_extractor(kind, net, classifier_path, config.get("schedule"))
    except ValueError as error:
        message = str(error)
        own = message.startswith(str(classifier_path))
        raise FileError(message if own else f"{path}: {message}") from error


def _adapt(extractor, lora_path, rank: int | None, members: list) -> None:
    """Merge a LoRA into the extractor; a head that was trained with one must get one."""
    if lora_path is None:
        if any(config.get("training", {}).get("lora_rank") for *_, config in members):
            raise MissingLoRA(
                f"{members[0][0]}: was trained together with a LoRA of the extractor "
                f"{extractor.kind}; give that file"
            )
        return
    network = extractor.own_network()
    found = load_lora(lora_path, network)["rank"]
    if rank not in (None, found):
        raise FileError(f"{lora_path}: is of rank {found}, not {rank}; leave the rank out")
    merge_lora(network)


def _calibration(config: dict, path) -> Calibration:
    """The calibration in the metadata of a head."""
    if "calibration" not in config:
        raise ValueError(
            f"{path}: holds no calibration; store one by a diagnosis, or guide without calibration"
        )
    try:
        return Calibration(**config["calibration"])
    except (TypeError, ValueError) as error:
        raise ValueError(f"{path}: {error}; calibrate the head again") from error


def _check_trained_on(config: dict, extractor: Extractor, path) -> None:
    expected = config.get("fingerprint")
    if expected is None:
        return
    found = extractor.frozen and fingerprint(extractor.frozen)
    if found != expected:
        what = "score network" if extractor.kind == "score" else "classifier"
        raise FileError(
            f"{path}: was trained on another {what} (fingerprint {expected}, given {found}); "
            "give the one it was trained with, or train a new discriminator"
        )
