"""What the README and docs/*.md tell readers to type, and how tests run it on tiny networks."""

import os
import re
import shlex
from pathlib import Path

ROOT = Path(__file__).parent.parent
PAGES = [ROOT / "README.md", *sorted((ROOT / "docs").glob("*.md"))]
SCRIPTS = sorted(path.name for path in ROOT.glob("*.py"))

# A block of commands; or a command as the last cell of a row, the others being those of others.
COMMANDS = re.compile(
    r"^```bash\n(?P<block>.*?)^```$|\| `(?P<cell>python [^`\n]+)` \|$", re.DOTALL | re.MULTILINE
)
EXAMPLES = re.compile(r"^```python\n(.*?)^```$", re.DOTALL | re.MULTILINE)

MOST_IMAGES = 24  # that a command makes
# Options that are added, by script and subcommand, or sampler; the last of two
# values counts.
ADDED = {
    "generate.py": "--steps 2 --batch 24",
    "train.py": "--epochs 1 --batch_size 4 --eval_images 4 --num_data 8",
    "fid.py": "--num_samples 8",
    "fid.py diagnose": "--num_samples 10 --num_visited 2 --levels 2",
    "fid.py nll": "--num_samples 2 --steps 2",
    "pretrain.py score": "--steps 2 --batch 4 --cbase 16",
    "pretrain.py ddpm": "--steps 2 --batch 4",
    "pretrain.py vae": "--steps 2 --batch 4",
    "pretrain.py classifier": "--steps 2 --batch 4",
    "pretrain.py features": "--epochs 1",
    "pretrain.py latents": "--resolution 16",
    "reproduce.py": "--dry-run",
    "reproduce.py two-gaussians": "--profile smoke",
    "restart": "--restart [2,1,0.01,100]",
    "rejection": "--warmup 8 --max_iter 9",
    "particles": "--resample_steps 1 --time_min 0",
}


def commands(page):
    """The commands of a page in their order, each a list of words."""
    found = []
    for match in COMMANDS.finditer(page.read_text(encoding="utf-8")):
        lines = (match["block"] or match["cell"]).replace("\\\n", " ").splitlines()
        for line in lines:
            parts = shlex.split(line, comments=True)
            while "&&" in parts:
                place = parts.index("&&")
                found.append(parts[:place])
                parts = parts[place + 1 :]
            found.append(parts)
    return [words for words in found if words]


def examples(page):
    """The Python examples of a page in their order."""
    return EXAMPLES.findall(page.read_text(encoding="utf-8"))


def script_of(words):
    """(script, its arguments) of a command, whatever starts it; None for another command."""
    for place, word in enumerate(words):
        if word in SCRIPTS:
            return word, [os.path.expandvars(part) for part in words[place + 1 :]]
    return None


def on_tiny_networks(script, arguments):
    """The arguments with everything that takes long made small."""
    small = []
    for word in arguments:
        if match := re.fullmatch(r"(--seeds=)?0-\d{2,}", word):
            word = f"{match[1] or ''}0-{MOST_IMAGES - 1}"
        elif match := re.fullmatch(r"--num_samples=(\d+)", word):
            word = f"--num_samples={min(int(match[1]), MOST_IMAGES)}"
        elif small and small[-1] in ("--num_samples", "--num-fid-samples"):
            word = str(min(int(word), MOST_IMAGES))
        small.append(word)
    added = ADDED.get(f"{script} {arguments[0]}" if arguments else "", ADDED.get(script, ""))
    if any(word.startswith("--transfer") for word in small):  # it has that network's shape
        added = added.replace("--cbase 16", "")
    if "--timestep_respacing" in small:
        added = added.replace("--steps 2", "")
    if "--sampler" in small:
        added += " " + ADDED.get(small[small.index("--sampler") + 1], "")
    small += added.split()
    of_features = script == "fid.py" and not {"nll", "diagnose"} & {*small}
    if of_features and "--features" not in small:
        small += ["--features", "random-vgg"]
    if "--classifier_scale" in small and "--classifier_ckpt" not in small:
        small += ["--classifier_ckpt", "adm-256-classifier"]  # the default goes by the size
    return small
