"""Training of a discriminator's head: real against generated images at every noise level (Kim et al. 2023, Eq. 7)."""

import json
import math
from collections.abc import Iterable
from contextlib import contextmanager
from dataclasses import asdict, replace
from pathlib import Path

import numpy as np
import torch
from torch import Tensor, nn

from dg.checkpoints import save_head
from dg.data.datasets import ImageSet
from dg.discriminator import Discriminator
from dg.fingerprints import fingerprint
from dg.lora import add_lora, save_lora
from dg.losses import LOSSES, NoisyBatch
from dg.recipes import PRESETS, DiscriminatorTraining
from dg.runtime.files import plain, writable_folder, write_json, write_text
from dg.runtime.processes import SINGLE_PROCESS, Ranks
from dg.runtime.progress import Progress, Stopped, silent
from dg.runtime.training_state import Every, load_state, save_state, step_generator
from dg.training_data import check_discriminator, check_sets, epoch_order, noisy_batch, split_sets
from dg.training_metrics import evaluate

__all__ = [
    "PRESETS",
    "DiscriminatorTraining",
    "Trainer",
    "best_entry",
    "check_sets",
    "train_discriminator",
]


def train_discriminator(
    discriminator: Discriminator,
    real: ImageSet,
    fake: ImageSet,
    settings: DiscriminatorTraining,
    folder,
    conditional: bool | None = None,
    progress: Progress = silent,
    save_seconds: float = 20,
    net=None,
    tensorboard: bool = False,
    ranks: Ranks = SINGLE_PROCESS,
) -> list[dict]:
    """Train the only head of `discriminator` in place, keep checkpoints in `folder`, return the log (a dict per epoch).

    conditional   overrides the settings'
    save_seconds  how often the state is saved, besides at the end
    net           the score network, for the loss "matching"; default: the one under the discriminator
    tensorboard   also write the log to folder/tensorboard
    ranks         processes that share every batch; all call this alike and get the same result. Their number changes it by
                  rounding only (and dropout's masks)

    `best.safetensors` has the lowest validation loss (without validation images there is none), `last.safetensors` is the
    final one, `epoch_NNN.safetensors` every `keep_every`; `lora_*` beside them where an adapter is trained; `log.jsonl` one
    line per epoch; `summary.json` what the test images say. A run that was killed goes on where its state was saved and
    ends with the same bytes; where `progress` asks to end, by `Stopped`, the state is saved first. Raises ValueError, before
    training, for what does not fit.
    """
    settings = settings if conditional is None else replace(settings, conditional=conditional)
    check_sets(real, fake, settings)
    check_discriminator(discriminator, real, settings)
    identity = _identity(discriminator, real, fake, settings)
    trainer, folder = Trainer(discriminator, settings, net, ranks), writable_folder(folder)
    train, valid, test = split_sets(real, fake, settings, trainer.device)
    run = Run(trainer, folder, identity)
    ranks.barrier()  # all have read the state before the first replaces it
    writer = _tensorboard(folder, run.step) if tensorboard and ranks.first else None
    steps = len(epoch_order(train, settings, 0))
    total, due, order = settings.epochs * steps, Every(save_seconds), None
    try:
        for step in progress(
            range(run.step, total), desc="discriminator", initial=run.step, total=total, unit="step"
        ):
            epoch, within = divmod(step, steps)
            if within == 0 and run.stopped_early():
                break
            if within == 0 or order is None:
                order = epoch_order(train, settings, epoch)
            generator = step_generator(settings.seed, "noise", step, trainer.device)
            trainer.step(noisy_batch(train, order[within], settings, generator), step, total)
            run.step = step + 1
            if run.step % steps == 0:
                with trainer.averaged():
                    run.end_epoch({"train": train, "valid": valid})
                if writer is not None:
                    _write_scalars(writer, run.log[-1])
            if due():
                run.save_state()
    except (Stopped, ConnectionError):  # asked to end, or left alone
        if (
            len(run.log) == run.step // steps
        ):  # else left alone within the end of an epoch, which is to be repeated
            run.save_state()
        raise
    run.finish({"valid": valid, "test": test}, {"real": len(real), "fake": len(fake)})
    return run.log


def best_entry(log: list[dict]) -> dict:
    """The epoch that `best.safetensors` holds, of lowest validation loss; without validation the last."""
    return min(log, key=lambda entry: entry.get("valid_loss", -entry["epoch"]))


class Trainer:
    """One optimisation step after the other on the head of a discriminator, and on its classifier's LoRA if asked for.

    net    the score network, for the loss "matching"
    ranks  processes that share every batch
    """

    def __init__(
        self,
        discriminator: Discriminator,
        settings: DiscriminatorTraining,
        net=None,
        ranks: Ranks = SINGLE_PROCESS,
    ):
        self.discriminator, self.settings, self.head = (
            discriminator,
            settings,
            discriminator.heads[0],
        )
        self.ranks = ranks
        if settings.batch_size < ranks.world:
            raise ValueError(
                f"a batch of {settings.batch_size} cannot be shared by {ranks.world} processes; use fewer of them"
            )
        self.device = discriminator.weights.device
        self.net = net if net is not None else getattr(discriminator.extractor, "net", None)
        if settings.loss == "matching" and self.net is None:
            raise ValueError(
                "the loss matching compares with the score network's error; give that network (--network)"
            )
        supported = self.device.type == "cpu" or (
            self.device.type == "cuda" and torch.cuda.is_bf16_supported()
        )
        if settings.bf16 and not supported:
            raise ValueError(
                f"the device {self.device} does not compute in bfloat16; leave --bf16 out"
            )
        self.parameters = [*self.head.requires_grad_(True).parameters(), *self._add_lora()]
        self.optimizer = torch.optim.Adam(
            self.parameters, lr=settings.lr, weight_decay=settings.weight_decay
        )
        self.average = [parameter.detach().clone() for parameter in self.parameters]
        self.parts = (
            settings.accumulate
        )  # of a batch; twice as many where they do not fit into memory

    def step(self, batch: NoisyBatch, index: int = 0, total: int = 1) -> tuple[Tensor, Tensor]:
        """Update number `index` of `total`; returns (loss [] of the batch, logits of this process's part of it) before it."""
        s = self.settings
        cosine = 0.5 * (1 + math.cos(math.pi * index / total)) if s.lr_schedule == "cosine" else 1.0
        for group in self.optimizer.param_groups:
            group["lr"] = s.lr * cosine
        self.head.train()
        mine, size = batch.parts(self.ranks.world)[self.ranks.rank], len(batch.x)
        while (found := self._gradients(mine, size, index)) is None:
            self.parts = min(2 * self.parts, len(mine.x))
            torch.cuda.empty_cache()
        loss, logits = found
        self.ranks.sum_([loss, *(p.grad for p in self.parameters if p.grad is not None)])
        self.optimizer.step()
        self._update_average(size, index)
        return loss, logits

    def _gradients(self, mine: NoisyBatch, size: int, index: int) -> tuple[Tensor, Tensor] | None:
        """(loss [], logits [N]) of this process's part of a batch of `size`, of which the loss is its share, computed in smaller
        parts; None if one of them does not fit into memory."""
        s, losses = self.settings, []
        self.optimizer.zero_grad(set_to_none=True)
        try:
            with _seeded(self.device, s.seed + index):
                for part in mine.parts(self.parts):
                    with torch.autocast(self.device.type, torch.bfloat16, enabled=s.bf16):
                        loss, logits = LOSSES[s.loss](self.discriminator, part, s.penalty, self.net)
                    loss = loss * (len(logits) / size)
                    loss.backward()
                    losses.append((loss.detach(), logits.detach()))
        except torch.OutOfMemoryError:
            if self.parts < len(mine.x):
                return None
            raise ValueError(
                f"the memory of {self.device} does not suffice for one image; free it first"
            ) from None
        return torch.stack([loss for loss, _ in losses]).sum(), torch.cat(
            [logits for _, logits in losses]
        )

    @torch.no_grad()
    def _update_average(self, images: int, index: int) -> None:
        s = self.settings
        halflife = min(
            s.ema_halflife, s.ema_rampup * images * (index + 1) if s.ema_rampup else math.inf
        )
        decay = 0.5 ** (images / halflife) if halflife else 0.0
        torch._foreach_lerp_(
            self.average, [parameter.detach() for parameter in self.parameters], 1 - decay
        )

    @contextmanager
    def averaged(self, values: list[Tensor] | None = None):
        """Within it the discriminator has the averaged weights, or `values`, and is in eval mode."""
        current = [parameter.detach().clone() for parameter in self.parameters]
        self.head.eval()
        self.assign(self.average if values is None else values)
        try:
            yield
        finally:
            self.assign(current)

    @torch.no_grad()
    def assign(self, values: Iterable[Tensor]) -> None:
        for parameter, value in zip(self.parameters, values, strict=True):
            parameter.copy_(value)

    def _add_lora(self) -> list[nn.Parameter]:
        """The trainable parameters of a new adapter on the classifier, none if the settings ask for none."""
        if not self.settings.lora_rank:
            return []
        if self.discriminator.extractor.kind != "classifier":
            raise ValueError(
                "LoRA adapts the frozen classifier; give --pretrained_classifier_ckpt, or --lora_rank 0"
            )
        s = self.settings
        return add_lora(
            self.discriminator.extractor.encoder, s.lora_rank, s.lora_alpha, seed=s.seed
        )

    def save(self, folder: Path, name: str, epoch: int) -> None:
        """The discriminator as it is now: the head, and beside it the adapter."""
        training = asdict(self.settings) | {"epoch": epoch}
        extractor = self.discriminator.extractor
        save_head(folder / f"{name}.safetensors", self.head, extractor, training)
        if self.settings.lora_rank:
            save_lora(folder / f"lora_{name}.safetensors", extractor.encoder, training)


class Run:
    """A training's files, its log, and its state, which is found again if the folder has one of the same identity."""

    def __init__(self, trainer: Trainer, folder: Path, identity: dict):
        self.trainer, self.folder, self.identity = trainer, folder, identity
        self.step, self.log, self.best = 0, [], [parameter.clone() for parameter in trainer.average]
        state = load_state(folder / "state.pt")
        if state is None:
            return
        if changed := [
            key for key, value in identity.items() if state.get("identity", {}).get(key) != value
        ]:
            raise ValueError(
                f"{folder}: holds a training run of other {' and '.join(changed)}; choose another folder or "
                "delete it"
            )
        trainer.assign(state["parameters"])
        for values, name in ((trainer.average, "average"), (self.best, "best")):
            for value, saved in zip(values, state[name], strict=True):
                value.copy_(saved)
        trainer.optimizer.load_state_dict(state["optimizer"])
        self.step, self.log = state["step"], state["log"]

    def save_state(self) -> None:
        if not self.trainer.ranks.first:
            return
        parameters = [parameter.detach() for parameter in self.trainer.parameters]
        save_state(
            self.folder / "state.pt",
            dict(
                identity=self.identity,
                step=self.step,
                log=self.log,
                parameters=parameters,
                average=self.trainer.average,
                best=self.best,
                optimizer=self.trainer.optimizer.state_dict(),
            ),
        )

    def end_epoch(self, splits: dict) -> None:
        """Measure the averaged discriminator, which is in place now, and keep what is due. The first process measures for all."""
        ranks = self.trainer.ranks
        entry = ranks.broadcast(self._measured(splits) if ranks.first else None)
        if not all(np.isfinite(entry.get(f"{name}_loss", 0)) for name in splits):
            raise ValueError(
                f"{self.folder}: the loss is not finite at epoch {entry['epoch']}; lower the learning rate and "
                "start in another folder"
            )
        self.log.append(entry)
        epoch, keep_every = entry["epoch"], self.trainer.settings.keep_every
        if best_entry(self.log) is entry:
            self.best = [parameter.detach().clone() for parameter in self.trainer.parameters]
            if "valid_loss" in entry and ranks.first:
                self.trainer.save(self.folder, "best", epoch)
        if keep_every and epoch % keep_every == 0 and ranks.first:
            self.trainer.save(self.folder, f"epoch_{epoch:03d}", epoch)
        if ranks.first:
            self.write_log()

    def _measured(self, splits: dict) -> dict:
        """The log's entry of the epoch that has just ended."""
        trainer, entry = self.trainer, {"epoch": len(self.log) + 1, "step": self.step}
        if trainer.parts != trainer.settings.accumulate:
            entry["accumulate"] = (
                trainer.parts
            )  # memory was too small for what the settings ask for
        for name, split in splits.items():
            if len(split.images):
                entry |= {
                    f"{name}_{key}": value
                    for key, value in evaluate(
                        trainer.discriminator, split, trainer.settings
                    ).items()
                }
        return entry

    def stopped_early(self) -> bool:
        patience = self.trainer.settings.patience
        return bool(
            patience and self.log and len(self.log) - best_entry(self.log)["epoch"] >= patience
        )

    def write_log(self) -> None:
        write_text(
            self.folder / "log.jsonl", "".join(json.dumps(entry) + "\n" for entry in self.log)
        )

    def finish(self, splits: dict, images: dict) -> None:
        """Leave the averaged weights in the discriminator and the last files in the folder."""
        if not self.trainer.ranks.first:
            self.trainer.assign(self.trainer.average)
            return
        trainer, summary = (
            self.trainer,
            {"images": images, "settings": asdict(self.trainer.settings)},
        )
        chosen = (
            {"best": (best_entry(self.log)["epoch"], self.best)}
            if "valid_loss" in self.log[-1]
            else {}
        )
        for name, (epoch, values) in (chosen | {"last": (len(self.log), trainer.average)}).items():
            with trainer.averaged(values):
                trainer.save(self.folder, name, epoch)
                summary[name] = {"epoch": epoch} | {
                    part: evaluate(trainer.discriminator, split, trainer.settings)
                    for part, split in splits.items()
                    if len(split.images)
                }
        write_json(self.folder / "summary.json", summary)
        self.write_log()
        self.save_state()
        trainer.assign(trainer.average)


def _identity(
    discriminator: Discriminator, real: ImageSet, fake: ImageSet, settings: DiscriminatorTraining
) -> dict:
    """What a saved state must agree on to be gone on from: settings, images, frozen network, by name."""
    frozen = discriminator.extractor.frozen
    return {
        "settings": plain(asdict(settings)),
        "real images": real.fingerprint(),
        "generated images": fake.fingerprint(),
        "head": [list(p.shape) for p in discriminator.heads[0].parameters()],
        "frozen network": frozen and fingerprint(frozen),
    }


@contextmanager
def _seeded(device: torch.device, seed: int):
    """Global random numbers, which dropout and initialisation take, from `seed`; outside nothing changes."""
    with torch.random.fork_rng(devices=[device] if device.type == "cuda" else []):
        torch.manual_seed(seed)
        yield


def _tensorboard(folder: Path, step: int):
    try:
        from torch.utils.tensorboard import SummaryWriter
    except ImportError:
        raise ValueError(
            "--tensorboard needs a package that is not installed: pip install tensorboard"
        ) from None
    return SummaryWriter(folder / "tensorboard", purge_step=step)


def _write_scalars(writer, entry: dict) -> None:
    for name, value in entry.items():
        if isinstance(value, float):
            writer.add_scalar(name.replace("_", "/", 1), value, entry["step"])
    writer.flush()
