"""The training engine: the same end on one process or several, in one piece or interrupted.

A `Stepper` takes steps of an optimizer. A `Run` repeats them, keeps the log and the state, and goes
on from them.
"""

import json
import math
from collections.abc import Callable, Iterable
from contextlib import nullcontext
from pathlib import Path

import torch
from torch import Tensor

import dg
from dg.precision import autocast
from dg.runtime.files import changed_names, write_text
from dg.runtime.memory import in_chunks
from dg.runtime.processes import SINGLE_PROCESS, Ranks
from dg.runtime.progress import Progress, Stopped
from dg.runtime.randomness import seeded, step_generator
from dg.runtime.run_folder import sole_writer
from dg.runtime.training_state import Every, load_state, restoring, save_state
from tensor_files.reading import FileError

LOG_STEPS = 50  # an entry of the log is the mean over so many steps
OBSERVE_STEPS = 250  # between two calls of `observe`, a multiple of LOG_STEPS
VERSION = "code version"  # an entry of every identity
Values = dict[str, Tensor]  # scalars of a step; the gradient is that of "loss"


class Stepper:
    """Steps of an optimizer on batches that processes share and compute a micro-batch at a time.

    batch_size  images of a step, all processes together
    device      of the parameters
    precision   "float32", or "bfloat16" or "float16" for autocast; the parameters stay float32
    ranks       each takes a consecutive part of every batch, and their sizes differ by one image at
                most; gradients are summed over them
    microbatch  images that a process computes at once; None: all of its part. It is halved where
                they do not fit into memory. From then on it is among a step's values, as the mean
                over the processes
    seed        seed of draws from the global generator, such as dropout. These draws depend on the
                step too, and on the micro-batch's place in the batch

    With the same micro-batches, the number of processes changes results by rounding only.
    ValueError for fewer images than processes, or a precision that the device does not have.
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
        if batch_size < ranks.world:
            raise ValueError(
                f"a batch of {batch_size} images cannot be shared by {ranks.world} processes; "
                "use fewer of them"
            )
        self.optimizer, self.batch_size, self.ranks, self.seed = optimizer, batch_size, ranks, seed
        self.device, self.precision = torch.device(device), precision
        _check_precision(precision, self.device)
        bounds = [rank * batch_size // ranks.world for rank in (ranks.rank, ranks.rank + 1)]
        self.first, self.count = bounds[0], bounds[1] - bounds[0]  # this process's part of a batch
        self.microbatch = self.wanted = min(microbatch or self.count, self.count)
        self.scaler = torch.amp.GradScaler(self.device.type, enabled=precision == "float16")

    def step(self, index: int, values_of: Callable[[slice], Values]) -> Values:
        """Take step number `index`; returns the means over the batch.

        values_of  computes the means over a part of the batch
        """
        shares, self.microbatch = in_chunks(
            lambda chunk: self._gradients(index, chunk, values_of), self.count, self.microbatch
        )
        totals = {name: sum(share[name] for share in shares) for name in shares[0]}
        if self.microbatch < self.wanted or self.ranks.world > 1:  # the same at all processes
            size = float(self.microbatch) / self.ranks.world
            totals["microbatch"] = torch.tensor(size, device=self.device)
        parameters = (p for group in self.optimizer.param_groups for p in group["params"])
        gradients = [p.grad for p in parameters if p.grad is not None]
        self.ranks.sum_([*gradients, *totals.values()])
        self.scaler.step(self.optimizer)
        self.scaler.update()
        return totals

    def _gradients(self, index: int, chunk: slice, values_of: Callable[[slice], Values]) -> Values:
        """Add a micro-batch's share of the gradients; returns its share of the values.

        chunk  its place in this process's part of the batch
        """
        if chunk.start == 0:  # a batch begins, perhaps once more
            self.optimizer.zero_grad(set_to_none=True)
        part = slice(self.first + chunk.start, self.first + chunk.stop)
        weight = (chunk.stop - chunk.start) / self.batch_size
        seed = step_generator(self.seed, f"network {part.start}", index).initial_seed()
        with seeded(seed, self.device), autocast(self.precision, self.device):
            values = values_of(part)
        self.scaler.scale(values["loss"] * weight).backward()
        return {name: value.detach() * weight for name, value in values.items()}


class Run:
    """Progress of a training: its next step, its log, and the state file that a rerun continues
    from.

    path      the state file; None keeps none
    identity  what a state and all processes must agree on, by name; ValueError otherwise. The
              version of the code is added. What an older state does not tell is told, and trusted
    holders   everything with a state_dict, by name: modules, optimizer, scaler
    ranks     all read the state, the first writes it
    observe   called with the number of steps done; values that it returns, such as a test loss,
              join the log
    every     steps from one entry of the log to the next, all of them observed. None: LOG_STEPS,
              observed every OBSERVE_STEPS. The last step is logged and observed in any case
    """

    def __init__(
        self,
        path,
        identity: dict,
        holders: dict,
        ranks: Ranks = SINGLE_PROCESS,
        observe: Callable[[int], dict] | None = None,
        every: int | None = None,
    ):
        self.path, self.holders = path and Path(path), holders
        self.identity = identity | {VERSION: dg.__version__}
        self.ranks, self.observe = ranks, observe
        self.log_steps, self.observe_steps = every or LOG_STEPS, every or OBSERVE_STEPS
        self.step, self.log, self.recent = 0, [], []  # recent: values of steps without an entry yet
        ranks.agree(self.identity)
        state = None if path is None else load_state(path, ranks.tell)
        if state is not None:
            told = state.get("identity")
            self._check_same(told if isinstance(told, dict) else {})
            with restoring(path):
                for name, holder in holders.items():
                    holder.load_state_dict(state[name])
                self.step, self.log, self.recent = state["step"], state["log"], state["recent"]
                if type(self.step) is not int or not type(self.log) is type(self.recent) is list:
                    raise FileError("its step and log are of another kind; delete it to start over")
        ranks.barrier()  # all have read the state before the first replaces it

    def _check_same(self, found: dict) -> None:
        known = {name: value for name, value in self.identity.items() if name in found}
        if changed := changed_names({name: found[name] for name in known}, known):
            raise ValueError(
                f"{self.path}: of a run with other {' and '.join(changed)}; choose another folder "
                "or delete it"
            )
        # of an older version that keeps no version `load_state` has told
        if unknown := [name for name in self.identity if name not in {*found, VERSION}]:
            self.ranks.tell(
                f"{self.path}: does not tell its {' and '.join(unknown)}; taken as here"
            )

    def train(
        self,
        update: Callable[[int], Values],
        total: int,
        progress: Progress,
        desc: str,
        save_seconds: float,
        ended: Callable[[], bool] = lambda: False,
    ) -> list[dict]:
        """Do the steps up to `total` that are missing; returns the log.

        update        does one, given its number, and returns its values
        save_seconds  how often the state is saved, besides at the end
        ended         asked before every step whether it is the end already

        The state is saved too where `progress` asks to end, by `Stopped`, and where another process
        has gone. ValueError, before any step, for fewer steps than are done, and where another run
        is writing to the folder.
        """
        self.ranks.agree({"steps": total})
        if self.step > total:
            raise ValueError(
                f"{self.path}: {self.step} steps are done, and {total} are asked for; ask for at "
                f"least {self.step}, or choose another folder"
            )
        due, owned = Every(save_seconds), nullcontext()
        if self.path is not None:
            owned = sole_writer(self.path.parent, self.ranks)
        with owned:
            try:
                self._make_entry(total)  # due where a run was left alone while it made one
                for step in progress(
                    range(self.step, total), desc=desc, initial=self.step, total=total, unit="step"
                ):
                    if ended():
                        break
                    self.recent.append(update(step))  # numbers later: a GPU need not be waited for
                    self.step = step + 1
                    self._make_entry(total)
                    if due():
                        self.save()
            except (Stopped, ConnectionError):
                self.save()
                raise
            self.save()
        return self.log

    def save(self) -> None:
        """Write the state, and the log beside it as log.jsonl."""
        self._look()
        if self.path is None or not self.ranks.first:
            return
        lines = "".join(json.dumps(entry) + "\n" for entry in self.log)
        write_text(self.path.with_name("log.jsonl"), lines)
        state = dict(identity=self.identity, step=self.step, log=self.log, recent=self.recent)
        holders = {name: holder.state_dict() for name, holder in self.holders.items()}
        save_state(self.path, state | holders)

    def _make_entry(self, total: int) -> None:
        """The log's entry, where one is due and not made yet."""
        if not self.recent or (self.step % self.log_steps and self.step != total):
            return
        self._look()
        means = {
            name: sum(values[name] for values in self.recent) / len(self.recent)
            for name in self.recent[0]
            if all(name in values for values in self.recent)
        }
        look = self.observe and (self.step % self.observe_steps == 0 or self.step == total)
        self.log.append({"step": self.step} | means | (self.observe(self.step) if look else {}))
        self.recent = []

    def _look(self) -> None:
        """Make numbers of what steps gave; ValueError if a loss is not finite."""
        self.recent = [
            {name: float(value) for name, value in values.items()} for values in self.recent
        ]
        for step, values in enumerate(self.recent, start=self.step - len(self.recent) + 1):
            if not math.isfinite(values["loss"]):
                raise ValueError(
                    f"the loss is not finite at step {step}; lower the learning rate and start in "
                    "another folder"
                )


@torch.no_grad()
def update_average(
    average: Iterable[Tensor], values: Iterable[Tensor], settings, step: int
) -> None:
    """Bring an exponential moving average of parameters on after step `step`.

    settings  have `batch_size`; `ema_halflife`, in images, 0 for no averaging; and `ema_rampup`:
              the half-life is at most this part of the images seen so far, 0 for no such bound
    """
    seen = (step + 1) * settings.batch_size
    halflife = settings.ema_halflife
    if settings.ema_rampup:
        halflife = min(halflife, seen * settings.ema_rampup)
    decay = 0.5 ** (settings.batch_size / max(halflife, 1e-8))
    torch._foreach_lerp_(list(average), [value.detach() for value in values], 1 - decay)


def _check_precision(precision: str, device: torch.device) -> None:
    if precision == "float16" and device.type != "cuda":
        raise ValueError(f"float16 trains on GPUs only, not on {device}; use bfloat16 or float32")
    if precision == "bfloat16" and device.type == "cuda" and not torch.cuda.is_bf16_supported():
        raise ValueError(
            f"the device {device} does not compute in bfloat16; use float16 or float32"
        )
