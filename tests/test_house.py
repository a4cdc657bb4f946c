"""The rules of the house: who may import whom, what libraries leave to scripts, what git keeps, how fast --help answers."""

import ast
import re
import subprocess
import sys
from pathlib import Path

import pytest

ROOT = Path(__file__).parent.parent
SCRIPTS = sorted(path.stem for path in ROOT.glob("*.py"))
PACKAGES = ("dg", "edm", "guided_diffusion")
SOURCES = sorted(
    [
        *ROOT.glob("*.py"),
        *(path for name in (*PACKAGES, "benchmarks") for path in (ROOT / name).rglob("*.py")),
    ]
)
LIBRARIES = [path for path in SOURCES if path.relative_to(ROOT).parts[0] in PACKAGES]

# What a package may import beside the standard library and itself; a package without an entry may import any other.
MAY_IMPORT = {"edm": {"torch", "numpy", "safetensors"}, "guided_diffusion": {"torch", "numpy"}}
TERMINAL = {"click", "tqdm"}
CONSOLE, OPTIONS = "dg/runtime/console.py", "dg/options/"
# Heavy third parties, imported inside functions and by these modules only.
HEAVY = {
    "PIL": {
        "dg/evaluation/figures/pictures.py",
        "dg/experiments/publish.py",
        "dg/data/image_files.py",
        "dg/data/crops.py",
        "dg/data/sample_store.py",
    },
    "diffusers": {"dg/models/diffusers_models.py"},
    "gdown": {"dg/runtime/downloads.py"},
    "matplotlib": {"dg/evaluation/figures/discriminators.py", "dg/evaluation/figures/style.py"},
    "requests": {"dg/runtime/downloads.py"},
    "scipy": {
        "dg/evaluation/likelihood.py",
        "dg/evaluation/metrics.py",
        "dg/evaluation/significance.py",
    },
    "sklearn": {"dg/data/named_sets.py", "dg/training_metrics.py"},
    "tensorboard": set(),
    "torch_fidelity": {"dg/evaluation/features.py"},
    "torchvision": {"dg/data/named_sets.py"},
}
# Nothing in this module works without it, and the scripts import the module inside functions.
HEAVY_AT_TOP = {("dg/evaluation/metrics.py", "scipy"), ("dg/evaluation/significance.py", "scipy")}
KNOWN = {*sys.stdlib_module_names, *PACKAGES, *TERMINAL, *HEAVY, "numpy", "safetensors", "torch"}

MOST_BYTES, MOST_BYTES_IN_ALL = 2_000_000, 20_000_000
# Hosts are spelled in two parts, so that this file does not name what it forbids.
PLACES = re.compile(
    rb"(?<![\w.])/(?:home|Users|root|work)/\w|C:[\\]Users|py" rb"pi[.]org|python" rb"hosted[.]org"
)


def name_of(path):
    return path.relative_to(ROOT).as_posix()


def imports_of(path):
    """Yield (dotted name, whether it stands inside a function) of everything that a file imports."""

    def walk(node, inside):
        if isinstance(node, ast.Import):
            yield from ((alias.name, inside) for alias in node.names)
        elif isinstance(node, ast.ImportFrom):
            package = list(path.relative_to(ROOT).parent.parts)
            base = package[: len(package) - node.level + 1] if node.level else []
            base += node.module.split(".") if node.module else []
            yield from ((".".join([*base, alias.name]), inside) for alias in node.names)
        for child in ast.iter_child_nodes(node):
            yield from walk(
                child,
                inside or isinstance(node, (ast.FunctionDef, ast.AsyncFunctionDef, ast.Lambda)),
            )

    yield from walk(ast.parse(path.read_bytes()), False)


def violations(rule, paths=SOURCES):
    """`file: import` of every import for which rule(path, dotted name, inside a function) is true."""
    return [
        f"{name_of(path)}: {name}"
        for path in paths
        for name, inside in imports_of(path)
        if rule(path, name, inside)
    ]


def test_the_walk_sees_relative_and_nested_imports(tmp_path, monkeypatch):
    monkeypatch.setitem(globals(), "ROOT", tmp_path)
    (tmp_path / "a" / "b").mkdir(parents=True)
    path = tmp_path / "a" / "b" / "c.py"
    path.write_text(
        "import x.y\nfrom . import d\nfrom ..e import f\ndef g():\n    from h.i import j\n"
    )
    assert list(imports_of(path)) == [
        ("x.y", False),
        ("a.b.d", False),
        ("a.e.f", False),
        ("h.i.j", True),
    ]


def test_packages_below_import_nothing_above():
    def rule(path, name, inside):
        package, top = path.relative_to(ROOT).parts[0], name.split(".")[0]
        allowed = MAY_IMPORT.get(package)
        return allowed is not None and top not in allowed | {package} | set(sys.stdlib_module_names)

    assert violations(rule) == []


def test_the_method_does_not_know_its_experiments():
    def rule(path, name, inside):
        return name.startswith("dg.experiments") and not name_of(path).startswith(
            ("dg/experiments/", OPTIONS)
        )

    assert violations(rule, LIBRARIES) == []


def test_nobody_imports_a_script():
    assert violations(lambda path, name, inside: name.split(".")[0] in SCRIPTS) == []


def test_every_import_is_known():
    def rule(path, name, inside):
        measuring = path.relative_to(ROOT).parts[0] == "benchmarks"  # may use the tests' networks
        return name.split(".")[0] not in (KNOWN | {"benchmarks", "tests"} if measuring else KNOWN)

    assert violations(rule) == []


def test_only_the_console_and_the_scripts_talk():
    quiet = [path for path in LIBRARIES if not name_of(path).startswith((CONSOLE, OPTIONS))]
    assert violations(lambda path, name, inside: name.split(".")[0] in TERMINAL, quiet) == []
    calls = [
        f"{name_of(path)}:{node.lineno}"
        for path in LIBRARIES
        for node in ast.walk(ast.parse(path.read_bytes()))
        if isinstance(node, ast.Call)
        and isinstance(node.func, ast.Name)
        and node.func.id == "print"
    ]
    assert calls == []


def test_heavy_third_parties_stay_in_their_modules_and_functions():
    def rule(path, name, inside):
        top = name.split(".")[0]
        if top not in HEAVY:
            return False
        return name_of(path) not in HEAVY[top] or not (
            inside or (name_of(path), top) in HEAVY_AT_TOP
        )

    assert violations(rule) == []


@pytest.mark.parametrize("script", SCRIPTS)
def test_help_answers_without_torch(script):
    command = [sys.executable, "-X", "importtime", f"{script}.py", "--help"]
    done = subprocess.run(command, cwd=ROOT, capture_output=True, text=True)
    assert done.returncode == 0 and done.stdout.startswith("Usage: ")
    imported = {line.rsplit("|", 1)[-1].strip().split(".")[0] for line in done.stderr.splitlines()}
    assert "click" in imported, "the listing of imports has another form"
    assert not imported & {"torch", "numpy", "safetensors", "tqdm", *HEAVY}


@pytest.fixture(scope="module")
def tracked():
    done = subprocess.run(["git", "ls-files", "-z"], cwd=ROOT, capture_output=True, text=True)
    if done.returncode:
        pytest.skip("not a git checkout")
    return [path for name in done.stdout.split("\0") if name and (path := ROOT / name).is_file()]


def test_git_keeps_small_files_only(tracked):
    sizes = {name_of(path): path.stat().st_size for path in tracked}
    assert [name for name, size in sizes.items() if size > MOST_BYTES] == []
    assert sum(sizes.values()) < MOST_BYTES_IN_ALL


def test_no_file_names_a_place_of_its_maker(tracked):
    found = [
        f"{name_of(path)}: {match[0].decode()}"
        for path in tracked
        if b"\0" not in (content := path.read_bytes()) and (match := PLACES.search(content))
    ]
    assert found == []
