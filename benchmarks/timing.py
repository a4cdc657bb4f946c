"""What the benchmarks of speed share: paired timing, where the time goes, memory, tables, results
as JSON.

python -m benchmarks.timing          # fills the tables of docs/speed.md from docs/results/speed/*.json
"""

import argparse
import json
import re
import resource
import statistics
import sys
import time
from collections import defaultdict
from collections.abc import Callable, Iterable, Iterator
from contextlib import ExitStack, contextmanager
from pathlib import Path
from unittest import mock

import torch

from dg.runtime.files import write_text
from dg.runtime.provenance import machine_of, provenance


def in_turns(works: list, rounds: int, seconds: float = float("inf")) -> Iterator:
    """Every work `rounds` times; every other round runs backwards, so that a machine that slows
    down favours none. No round is begun that would end after so many seconds, but the first."""
    start = time.perf_counter()
    for index in range(rounds):
        took = time.perf_counter() - start
        if index and took * (index + 1) / index > seconds:
            return
        yield from works[:: -1 if index % 2 else 1]


def measured_in_turns(rows: list, rounds: int) -> tuple[list[float], list[list[dict]]]:
    """What `measure` of every row tells, row by row: the seconds of a warm-up, and all passes."""
    warm_ups, passes = [row.measure()["total"] for row in rows], {id(row): [] for row in rows}
    for row in in_turns(rows, rounds):
        passes[id(row)].append(row.measure())
        print(".", end="", flush=True)
    print()
    return warm_ups, list(passes.values())


def speed_of_training(batch: int, mine: list[dict], reference: list[dict]) -> dict:
    """Cells of a row from its passes and those of the row that it is compared with."""
    pairs = zip(reference, mine, strict=True)
    return {
        "images/s": batch / statistics.median(one["total"] for one in mine),
        "x reference": statistics.median(a["total"] / b["total"] for a, b in pairs),
        "GiB": mine[-1]["peak"],
        "seconds": [one["total"] for one in mine],
    }


def tf32(matrices: bool, convolutions: bool) -> None:
    """Whether GPUs may round to TF32 from here on; torch's own choice is convolutions alone."""
    torch.backends.cuda.matmul.allow_tf32 = matrices
    torch.backends.cudnn.allow_tf32 = convolutions


def some_of(names: Iterable[str]) -> Callable[[str], list[str]]:
    """The type of an option that takes some of these names, with commas between them."""

    def chosen(text: str) -> list[str]:
        if unknown := [name for name in text.split(",") if name not in names]:
            raise argparse.ArgumentTypeError(f"no {unknown[0]!r}; give some of {', '.join(names)}")
        return text.split(",")

    return chosen


class Clock:
    """Seconds by label, of calls that are watched. Time in a call within another counts for the
    inner one alone."""

    def __init__(self, device):
        self.seconds, self.device, self._open = defaultdict(float), torch.device(device), []

    def synchronise(self) -> float:
        if self.device.type == "cuda":
            torch.cuda.synchronize(self.device)
        return time.perf_counter()

    @contextmanager
    def __call__(self, label: str) -> Iterator[None]:
        start = self.synchronise()
        self._open.append(0.0)
        try:
            yield
        finally:
            took = self.synchronise() - start
            self.seconds[label] += took - self._open.pop()
            if self._open:
                self._open[-1] += took

    @contextmanager
    def watching(self, *calls: tuple[object, str, str]) -> Iterator[None]:
        """Within it, calls of the attributes are timed: (object, attribute, label) each."""
        with ExitStack() as stack:
            for owner, name, label in calls:
                stack.enter_context(
                    mock.patch.object(owner, name, self._timed(getattr(owner, name), label))
                )
            yield

    def _timed(self, function, label):
        def timed(*args, **kwargs):
            with self(label):
                return function(*args, **kwargs)

        return timed


def reset_peak(device) -> None:
    """Let `peak_gib` count from here."""
    if torch.device(device).type == "cuda":
        torch.cuda.reset_peak_memory_stats(device)
    elif Path("/proc/self/clear_refs").exists():
        Path("/proc/self/clear_refs").write_text("5")


def peak_gib(device="cpu") -> float:
    """Most memory held since `reset_peak`: allocated on a GPU, else that of this process."""
    if torch.device(device).type == "cuda":
        return torch.cuda.max_memory_allocated(device) / 2**30
    status = Path("/proc/self/status")
    if status.exists():
        return int(status.read_text().split("VmHWM:")[1].split()[0]) / 2**20
    return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 2 ** (
        30 if sys.platform == "darwin" else 20
    )


def table(rows: list[dict], columns: Iterable[str]) -> str:
    """Rows in Markdown; a value that a row lacks is left empty."""
    lines = [list(columns), *([_cell(row.get(column)) for column in columns] for row in rows)]
    widths = [max(map(len, cells)) for cells in zip(*lines, strict=True)]
    lines.insert(1, ["-" * width for width in widths])
    return "\n".join(
        "| "
        + " | ".join(cell.ljust(width) for cell, width in zip(line, widths, strict=True))
        + " |"
        for line in lines
    )


def _cell(value) -> str:
    return "" if value is None else f"{value:.3g}" if isinstance(value, float) else str(value)


def results_of(module: str, rows: list[dict], columns: Iterable[str], device, **more) -> dict:
    """What a results file holds: rows, command, hardware and versions."""
    command = " ".join(["python -m", module, *sys.argv[1:]])
    results = {"columns": list(columns), "rows": rows} | more | provenance(command, {}, device)
    del results["seconds"]
    return results


def finish(module: str, rows: list[dict], columns: Iterable[str], device, out=None, **more) -> None:
    """Print the table, and write the results to `out`."""
    results = results_of(module, rows, columns, device, **more)
    print(shown(results))
    if out:
        write_text(out, json.dumps(results, indent=2) + "\n")


def shown(results: dict) -> str:
    """The table of a results file, and on what it was measured."""
    hardware = results["hardware"]
    return (
        f"{table(results['rows'], results['columns'])}\n\n`{results['command']}`, {machine_of(results)}, "
        f"{hardware['threads']} threads, torch {results['versions']['torch']}"
    )


def fill(page=Path("docs/speed.md"), results=Path("docs/results/speed")) -> None:
    """Put every results file between the marks `<!-- benchmark:NAME -->` and `<!-- /benchmark:NAME
    -->` of the page."""
    text = page.read_text(encoding="utf-8")
    for path in sorted(results.glob("*.json")):
        content = shown(json.loads(path.read_text()))
        marks = rf"(<!-- benchmark:{path.stem} -->\n).*?(<!-- /benchmark:{path.stem} -->)"
        text = re.sub(
            marks,
            lambda match, content=content: f"{match[1]}{content}\n{match[2]}",
            text,
            flags=re.DOTALL,
        )
    page.write_text(text, encoding="utf-8")


if __name__ == "__main__":
    fill()
