"""Optimisation steps that end the same on one process or several, in one piece or several, interrupted or not."""

import json
import math
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path

import torch
from torch import Tensor

from dg.runtime.files import write_text
from dg.runtime.processes import SINGLE_PROCESS, Ranks
from dg.runtime.progress import Progress, Stopped
from dg.runtime.training_state import Every, load_state, save_state, step_generator

LOG_STEPS = 50  # an entry of the log is the mean over so many steps
OBSERVE_STEPS = 250  # between two looks at what a training has learned, a multiple of LOG_STEPS
Values = dict[str, Tensor]  # scalars of a step; the gradient is that of "loss"


class Stepper:
    """Steps of an optimizer on batches that are shared among processes and computed a micro-batch at a time.

    batch_size  images of a step, all processes together
    device      of the parameters
    precision   "float32", or "bfloat16" or "float16" for autocast; the parameters stay float32
    ranks       each takes an equal, consecutive part of every batch; gradients are summed over them
    microbatch  images computed at once; None: all of a process's part. Where they do not fit into memory it is halved, and
                joins the values of the steps from then on (the mean over the processes)
    seed        of what draws from the global generator, such as dropout: it depends on the step and on the micro-batch's
                place in the batch, so with the same micro-batches on the number of processes only to rounding

    ValueError for a batch that cannot be divided so, or a precision that the device does not have.
    """

    def __init__(
        self,
        optimizer: torch.optim.Optimizer,
        batch_size: int,
        device,
        precision: str = "float32",
        ranks: Ranks = SINGLE_PROCESS,
        microbatch: int | None = None,
        seed: int = 0,
    ):
        self.optimizer, self.batch_size, self.device, self.ranks, self.seed = (
            optimizer,
            batch_size,
            torch.device(device),
            ranks,
            seed,
        )
        share = batch_size // ranks.world
        self.microbatch, self.halved = microbatch or share, False
        if share * ranks.world != batch_size:
            raise ValueError(
                f"a batch of {batch_size} images cannot be shared equally by {ranks.world} processes; "
                f"make it a multiple of {ranks.world}"
            )
        if share % self.microbatch:
            raise ValueError(
                f"{share} images of a batch cannot be computed {self.microbatch} at a time; "
                f"take a micro-batch that divides {share}"
            )
        _check_precision(precision, self.device)
        self.dtype = getattr(torch, precision)
        self.scaler = torch.amp.GradScaler(self.device.type, enabled=precision == "float16")

    def parts(self) -> list[slice]:
        """The micro-batches of this process, as places in the whole batch."""
        share = self.batch_size // self.ranks.world
        first = self.ranks.rank * share
        return [
            slice(start, start + self.microbatch)
            for start in range(first, first + share, self.microbatch)
        ]

    def step(self, index: int, values_of: Callable[[slice], Values]) -> Values:
        """Step number `index`; `values_of(part)` computes the means over a part of the batch. Returns those over all of it."""
        while (totals := self._sums(index, values_of)) is None:
            self._halve()
        parameters = [
            p
            for group in self.optimizer.param_groups
            for p in group["params"]
            if p.grad is not None
        ]
        self.ranks.sum_([*(p.grad for p in parameters), *totals.values()])
        self.scaler.step(self.optimizer)
        self.scaler.update()
        return totals

    def _sums(self, index: int, values_of: Callable[[slice], Values]) -> Values | None:
        """Gradients and values of this process's part of the batch; None if a micro-batch does not fit into memory."""
        self.optimizer.zero_grad(set_to_none=True)
        totals = {}
        try:
            for part in self.parts():
                for name, value in self._gradients(index, part, values_of).items():
                    totals[name] = totals.get(name, 0) + value
        except torch.OutOfMemoryError:
            return None
        if self.halved or self.ranks.world > 1:  # for the log; all processes have the same names
            totals["microbatch"] = torch.tensor(
                float(self.microbatch) / self.ranks.world, device=self.device
            )
        return totals

    def _halve(self) -> None:
        """Go on with micro-batches of at most half the size; ValueError where they are single images already."""
        if self.microbatch == 1:
            raise ValueError(
                f"the memory of {self.device} does not suffice for one image; free it, or train a smaller network"
            )
        share = self.batch_size // self.ranks.world
        self.microbatch = next(
            size for size in range(self.microbatch // 2, 0, -1) if share % size == 0
        )
        self.halved = True
        if self.device.type == "cuda":
            torch.cuda.empty_cache()

    def _gradients(self, index: int, part: slice, values_of: Callable[[slice], Values]) -> Values:
        """Add a micro-batch's share of the gradients; returns its share of the values."""
        autocast = torch.autocast(self.device.type, self.dtype, enabled=self.dtype != torch.float32)
        weight = self.microbatch / self.batch_size
        with self._seeded(index, part), autocast:
            values = values_of(part)
        self.scaler.scale(values["loss"] * weight).backward()
        return {name: value.detach() * weight for name, value in values.items()}

    @contextmanager
    def _seeded(self, index: int, part: slice):
        seed = step_generator(self.seed, f"network {part.start}", index).initial_seed()
        with torch.random.fork_rng(devices=[self.device] if self.device.type == "cuda" else []):
            torch.manual_seed(seed)
            yield


class Run:
    """How far a training is: its next step, its log, and the state file that a rerun goes on from.

    path      the state file; None keeps none
    identity  what a state must agree on to be gone on from, by name; ValueError otherwise
    holders   everything with a state_dict, by name: modules, optimizer, scaler
    ranks     all read the state, the first writes it
    observe   called after every `OBSERVE_STEPS` and at the end; what it returns joins the log's entry, such as a test loss
    """

    def __init__(
        self,
        path,
        identity: dict,
        holders: dict,
        ranks: Ranks = SINGLE_PROCESS,
        observe: Callable[[], dict] | None = None,
    ):
        self.path, self.identity, self.holders, self.ranks = (
            path and Path(path),
            identity,
            holders,
            ranks,
        )
        self.observe = observe
        self.step, self.log, self.recent = 0, [], []
        state = None if path is None else load_state(path)
        if state is not None:
            found = state.get("identity", {})
            if changed := [name for name, value in identity.items() if found.get(name) != value]:
                raise ValueError(
                    f"{path}: of a run with other {' and '.join(changed)}; choose another folder or delete it"
                )
            for name, holder in holders.items():
                holder.load_state_dict(state[name])
            self.step, self.log, self.recent = state["step"], state["log"], state["recent"]
        ranks.barrier()  # all have read the state before the first replaces it

    def steps(
        self, total: int, progress: Progress, desc: str, save_seconds: float
    ) -> Iterator[int]:
        """The steps that are missing; the caller does each and records its values. Where `progress` asks to end, by
        `Stopped`, the state is saved first."""
        due = Every(save_seconds)
        try:
            for step in progress(
                range(self.step, total), desc=desc, initial=self.step, total=total
            ):
                yield step
                self.step = step + 1
                if self.step % LOG_STEPS == 0 or self.step == total:
                    self._make_entry()
                    if self.observe is not None and (
                        self.step % OBSERVE_STEPS == 0 or self.step == total
                    ):
                        self.log[-1] |= self.observe()
                if due():
                    self.save()
        except Stopped:
            self.save()
            raise
        self.save()

    def record(self, values: Values) -> None:
        """Keep what a step gave; it is looked at later, so that a GPU need not be waited for."""
        self.recent.append(values)

    def save(self) -> None:
        """Write the state, and the log beside it as log.jsonl."""
        self._look()
        if self.path is None or not self.ranks.first:
            return
        write_text(
            self.path.with_name("log.jsonl"),
            "".join(json.dumps(entry) + "\n" for entry in self.log),
        )
        states = {name: holder.state_dict() for name, holder in self.holders.items()}
        save_state(
            self.path,
            dict(
                identity=self.identity, step=self.step, log=self.log, recent=self.recent, **states
            ),
        )

    def _make_entry(self) -> None:
        self._look()
        means = {
            name: sum(values[name] for values in self.recent) / len(self.recent)
            for name in self.recent[0]
            if all(name in values for values in self.recent)
        }
        self.log.append({"step": self.step} | means)
        self.recent = []

    def _look(self) -> None:
        """Make numbers of what was recorded; ValueError if a loss is not finite."""
        self.recent = [
            {name: float(value) for name, value in values.items()} for values in self.recent
        ]
        for step, values in enumerate(self.recent, start=self.step - len(self.recent) + 1):
            if not math.isfinite(values["loss"]):
                raise ValueError(
                    f"the loss is not finite at step {step}; lower the learning rate and start in another folder"
                )


@torch.no_grad()
def update_average(average: torch.nn.Module, net: torch.nn.Module, settings, step: int) -> None:
    """Bring an exponential moving average on after step `step`; `settings` have batch_size, and in images ema_halflife, which
    is at most the part ema_rampup of those seen so far."""
    seen = (step + 1) * settings.batch_size
    halflife = min(settings.ema_halflife, seen * settings.ema_rampup)
    decay = 0.5 ** (settings.batch_size / max(halflife, 1e-8))
    torch._foreach_lerp_(list(average.parameters()), list(net.parameters()), 1 - decay)


def _check_precision(precision: str, device: torch.device) -> None:
    if precision == "float16" and device.type != "cuda":
        raise ValueError(
            f"float16 trains on GPUs only, not on {device}; take bfloat16 (--bf16) or float32"
        )
    if precision == "bfloat16" and device.type == "cuda" and not torch.cuda.is_bf16_supported():
        raise ValueError(
            f"the device {device} does not compute in bfloat16; take float16 (--fp16) or float32"
        )
