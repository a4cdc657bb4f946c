"""Training of a discriminator's head: real against generated images at every noise level (Kim et
al. 2023, Eq. 7)."""

import json
import math
from collections.abc import Iterable, Sequence
from contextlib import contextmanager, nullcontext
from dataclasses import asdict, replace
from functools import lru_cache
from pathlib import Path
from tempfile import TemporaryDirectory

import numpy as np
import torch
from torch import Tensor, nn

from dg.checkpoints import save_head
from dg.data.datasets import ImageSet
from dg.discriminator import Discriminator, ScoreDifference
from dg.fingerprints import fingerprint
from dg.heads import FinetunedHead
from dg.lora import add_lora, save_lora
from dg.losses import LOSSES, NoisyBatch
from dg.pretraining.engine import Run, Stepper, Values, update_average
from dg.recipes import PRESETS, DiscriminatorTraining
from dg.runtime.files import plain, write_json
from dg.runtime.processes import SINGLE_PROCESS, Ranks
from dg.runtime.progress import Progress, silent
from dg.runtime.randomness import step_generator
from dg.runtime.run_folder import sole_writer
from dg.training_data import check_discriminator, check_sets, epoch_order, noisy_batch, split_sets
from dg.training_metrics import evaluate

__all__ = [
    "PRESETS",
    "DiscriminatorTraining",
    "Trainer",
    "best_entry",
    "check_sets",
    "train_discriminator",
    "training_log",
]

REPORTED = (
    "epoch step train_loss valid_loss train_accuracy valid_accuracy train_auc valid_auc valid_ece"
)


def train_discriminator(
    discriminator: Discriminator | ScoreDifference,
    real: ImageSet,
    fake: ImageSet | None = None,
    settings: DiscriminatorTraining = PRESETS["default"],
    folder=None,
    conditional: bool | None = None,
    progress: Progress = silent,
    save_seconds: float = 20,
    net=None,
    tensorboard: bool = False,
    ranks: Ranks = SINGLE_PROCESS,
) -> list[dict]:
    """Train the only head of `discriminator` in place; returns the log, a dict per epoch.

    fake          generated images; None with the loss "difference", which takes real ones alone
    folder        of the checkpoints and the state; None keeps neither: `save_head` writes the head
    conditional   overrides the settings'
    save_seconds  how often the state is saved, besides at the end
    net           the score network of the losses "matching" and "difference"; None: the one under
                  the discriminator
    tensorboard   also write the log to folder/tensorboard
    ranks         processes that share every batch, and get the same result up to rounding

    `best.safetensors` has the lowest validation loss (without validation images there is none),
    `last.safetensors` is the final one, `epoch_NNN.safetensors` every `keep_every`; `lora_*` beside
    them where an adapter is trained; `log.jsonl` one line per epoch; `summary.json` what the test
    images say. A run that was killed goes on where its state was saved and ends with the same
    bytes; where `progress` asks to end, the state is saved first. ValueError for what does not fit.
    """
    settings = settings if conditional is None else replace(settings, conditional=conditional)
    parts = (progress, save_seconds, net, tensorboard, ranks)
    with TemporaryDirectory() if folder is None else nullcontext(folder) as place:
        log = _train(discriminator, real, fake, settings, Path(place), *parts)
    discriminator.eval()
    return log


def _train(
    discriminator, real, fake, settings, folder, progress, save_seconds, net, tensorboard, ranks
) -> list[dict]:
    check_sets(real, fake, settings)
    check_discriminator(discriminator, real, settings)
    identity = _identity(discriminator, real, fake, settings, net)
    names = real.class_names if settings.conditional else None
    trainer = Trainer(discriminator, settings, net, ranks, names)
    train, valid, test = split_sets(real, fake, settings, trainer.device)
    order = lru_cache(1)(lambda epoch: epoch_order(train, settings, epoch))
    steps = len(order(0))  # per epoch
    checkpoints, stepper = Checkpoints(trainer, folder), trainer.stepper

    def end_epoch(step: int) -> dict:
        entry = checkpoints.end_epoch(step // steps, {"train": train, "valid": valid}, run.log)
        if writer is not None:
            _write_scalars(writer, entry, step)
        return entry

    def update(step: int) -> Values:
        epoch, place = divmod(step, steps)
        generator = step_generator(settings.seed, "noise", step, trainer.device)
        batch = noisy_batch(train, order(epoch)[place], settings, generator)
        return trainer.step(batch, step, total)

    def ended() -> bool:
        waited = len(run.log) - best_entry(run.log)["epoch"] if run.log else 0
        return 0 < settings.patience <= waited

    holders = dict(trainer=trainer, checkpoints=checkpoints)
    holders |= dict(optimizer=stepper.optimizer, scaler=stepper.scaler)
    with sole_writer(folder, ranks):
        run = Run(folder / "state.pt", identity, holders, ranks, end_epoch, every=steps)
        writer = _tensorboard(folder, run.step) if tensorboard and ranks.first else None
        total = settings.epochs * steps
        run.train(update, total, progress, "discriminator", save_seconds, ended)
        if ranks.first:
            images = {"real": len(real), "fake": len(fake or ())}
            checkpoints.finish(run.log, {"valid": valid, "test": test}, images)
    trainer.assign(trainer.average)
    return run.log


def best_entry(log: list[dict]) -> dict:
    """The epoch that `best.safetensors` holds, of lowest validation loss; without validation the
    last."""
    return min(log, key=lambda entry: entry.get("valid_loss", -entry["epoch"]))


def training_log(folder: Path) -> dict:
    """The entry of a report about a training: the measures of every epoch, and the best epoch."""
    entries = [json.loads(line) for line in (folder / "log.jsonl").read_text().splitlines()]
    log = [{key: entry[key] for key in REPORTED.split() if key in entry} for entry in entries]
    return {"log": log, "best_epoch": best_entry(entries)["epoch"]}


class Trainer:
    """One optimisation step after the other on the head of a discriminator or a score difference,
    and on the extractor's LoRA if asked for.

    net          the score network, for the losses "matching" and "difference"
    ranks        processes that share every batch
    class_names  of the labels, for the metadata of the files; None where they are not known
    """

    def __init__(
        self,
        discriminator: Discriminator | ScoreDifference,
        settings: DiscriminatorTraining,
        net=None,
        ranks: Ranks = SINGLE_PROCESS,
        class_names: Sequence[str] | None = None,
    ):
        s, extractor = settings, discriminator.extractor
        self.class_names = class_names
        self.discriminator, self.settings, self.net = discriminator, settings, net
        self.head, self.device = discriminator.heads[0], discriminator.device
        if net is None and extractor.kind == "score":
            self.net = extractor.net
        if s.needs_net and self.net is None:
            raise ValueError(f"the loss {s.loss} needs a score network; give that network")
        self.parameters = [*self.head.requires_grad_(True).parameters()]
        if s.lora_rank:
            adapted = extractor.own_network()
            self.parameters += add_lora(adapted, s.lora_rank, s.lora_alpha, seed=s.seed)
        optimizer = torch.optim.Adam(self.parameters, lr=s.lr, weight_decay=s.weight_decay)
        self.stepper = Stepper(
            optimizer, s.batch_size, self.device, s.precision, ranks, s.microbatch, s.seed
        )
        self.average = _copies(self.parameters)

    def step(self, batch: NoisyBatch, index: int = 0, total: int = 1) -> Values:
        """Take update number `index` of `total`; returns the batch's loss, and its accuracy."""
        s = self.settings
        cosine = 0.5 * (1 + math.cos(math.pi * index / total)) if s.lr_schedule == "cosine" else 1.0
        for group in self.stepper.optimizer.param_groups:
            group["lr"] = s.lr * cosine
        self.head.train()
        values = self.stepper.step(index, lambda part: self._values(batch.part(part)))
        update_average(self.average, self.parameters, s, index)
        return values

    def _values(self, batch: NoisyBatch) -> Values:
        s = self.settings
        loss, logits = LOSSES[s.loss](self.discriminator, batch, s.penalty, self.net)
        if logits is None:
            return {"loss": loss}
        right = (logits > 0) == (batch.targets > 0.5)
        return {"loss": loss, "accuracy": right.to(loss.dtype).mean()}

    @contextmanager
    def averaged(self, values: list[Tensor] | None = None):
        """Within it the discriminator has the averaged weights, or `values`, and is in eval
        mode."""
        current = _copies(self.parameters)
        self.head.eval()
        self.assign(self.average if values is None else values)
        try:
            yield
        finally:
            self.assign(current)

    def assign(self, values: Iterable[Tensor]) -> None:
        """Give the trained parameters these values."""
        _copy(self.parameters, values)

    def state_dict(self) -> dict:
        """The weights in a saved state."""
        return {"parameters": _copies(self.parameters), "average": self.average}

    def load_state_dict(self, state: dict) -> None:
        """Take the weights of a state."""
        self.assign(state["parameters"])
        _copy(self.average, state["average"])

    def save(self, folder: Path, name: str, epoch: int) -> None:
        """The discriminator as it is now: the head, and beside it the adapter."""
        training = asdict(self.settings) | {"epoch": epoch}
        if self.class_names:
            training["class_names"] = list(self.class_names)
        extractor = self.discriminator.extractor
        save_head(folder / f"{name}.safetensors", self.head, extractor, training)
        if self.settings.lora_rank:
            save_lora(folder / f"lora_{name}.safetensors", extractor.frozen, training)


class Checkpoints:
    """Measures and files of the averaged discriminator, after an epoch and after a training."""

    def __init__(self, trainer: Trainer, folder: Path):
        self.trainer, self.folder, self.ranks = trainer, folder, trainer.stepper.ranks
        self.best = _copies(trainer.average)  # the average at its best epoch

    def state_dict(self) -> dict:
        """The best epoch in a saved state."""
        return {"best": self.best}

    def load_state_dict(self, state: dict) -> None:
        """Take the best epoch of a state."""
        _copy(self.best, state["best"])

    def end_epoch(self, epoch: int, splits: dict, log: list[dict]) -> dict:
        """Measure the average and keep what is due; returns the epoch's entry of the log.

        log  the entries of the epochs before

        The first process measures for all. ValueError where a loss is not finite.
        """
        trainer, first = self.trainer, self.ranks.first
        with trainer.averaged():
            measured = {"epoch": epoch} | self.ranks.broadcast(
                self._measured(splits) if first else None
            )
            if not all(np.isfinite(measured.get(f"{name}_loss", 0)) for name in splits):
                raise ValueError(
                    f"{self.folder}: the loss is not finite at epoch {epoch}; lower the learning "
                    "rate and start in another folder"
                )
            if best_entry([*log, measured]) is measured:
                self.best = _copies(trainer.average)
                if "valid_loss" in measured and first:
                    trainer.save(self.folder, "best", epoch)
            keep_every = trainer.settings.keep_every
            if keep_every and epoch % keep_every == 0 and first:
                trainer.save(self.folder, f"epoch_{epoch:03d}", epoch)
        return measured

    def _measured(self, splits: dict) -> dict:
        """The measures of every split that has images, `{split}_{measure}`."""
        return {
            f"{name}_{measure}": value
            for name, split in splits.items()
            if len(split.images)
            for measure, value in self._evaluate(split).items()
        }

    def _evaluate(self, split) -> dict:
        trainer = self.trainer
        return evaluate(trainer.discriminator, split, trainer.settings, trainer.net)

    def finish(self, log: list[dict], splits: dict, images: dict) -> None:
        """Write the best and the last discriminator, and what `splits` say of them."""
        trainer = self.trainer
        chosen = {"last": (len(log), trainer.average)}
        if "valid_loss" in log[-1]:
            chosen = {"best": (best_entry(log)["epoch"], self.best)} | chosen
        summary = {"images": images, "settings": asdict(trainer.settings)}
        for name, (epoch, values) in chosen.items():
            with trainer.averaged(values):
                trainer.save(self.folder, name, epoch)
                summary[name] = {"epoch": epoch} | {
                    part: self._evaluate(split)
                    for part, split in splits.items()
                    if len(split.images)
                }
        write_json(self.folder / "summary.json", summary)


def _copies(tensors: Iterable[Tensor]) -> list[Tensor]:
    return [tensor.detach().clone() for tensor in tensors]


@torch.no_grad()
def _copy(tensors: Iterable[Tensor], values: Iterable[Tensor]) -> None:
    for tensor, value in zip(tensors, values, strict=True):
        tensor.copy_(value)


def _identity(discriminator, real: ImageSet, fake: ImageSet | None, settings, net) -> dict:
    """Values by name that a saved state must agree on to be continued."""
    frozen, head = discriminator.extractor.frozen, discriminator.heads[0]
    started = {"initial network": head.config["origin"]} if isinstance(head, FinetunedHead) else {}
    matched = net if settings.needs_net and isinstance(net, nn.Module) else None
    started |= {"score network": fingerprint(matched)} if matched else {}
    return started | {
        "settings": plain(asdict(settings)),
        "real images": real.fingerprint(),
        "generated images": fake and fake.fingerprint(),
        "head": [list(p.shape) for p in head.parameters()],
        "frozen network": frozen and fingerprint(frozen),
    }


def _tensorboard(folder: Path, step: int):
    try:
        from torch.utils.tensorboard import SummaryWriter
    except ImportError:
        raise ValueError(
            "a log for TensorBoard needs a package that is not installed: pip install tensorboard"
        ) from None
    return SummaryWriter(folder / "tensorboard", purge_step=step)


def _write_scalars(writer, entry: dict, step: int) -> None:
    for name, value in entry.items():
        if isinstance(value, float):
            writer.add_scalar(name.replace("_", "/", 1), value, step)
    writer.flush()
