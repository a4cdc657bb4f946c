"""The rules of the house: who may import whom, what libraries leave to scripts, sizes, what git
keeps, what --help loads."""

import ast
import re
import subprocess
import sys
from pathlib import Path

import pytest

ROOT = Path(__file__).parent.parent
SCRIPTS = sorted(path.stem for path in ROOT.glob("*.py"))
PACKAGES = ("dg", "edm", "guided_diffusion", "tensor_files")
SOURCES = sorted(
    [
        *ROOT.glob("*.py"),
        *(path for name in (*PACKAGES, "benchmarks") for path in (ROOT / name).rglob("*.py")),
    ]
)
LIBRARIES = [path for path in SOURCES if path.relative_to(ROOT).parts[0] in PACKAGES]

# What a package may import beside the standard library and itself; a package without an entry may
# import any other.
LOW = {"torch", "numpy", "safetensors"}
MAY_IMPORT = {
    "tensor_files": LOW,
    "edm": LOW | {"tensor_files"},
    "guided_diffusion": LOW | {"tensor_files"},
}
TERMINAL = {"click", "tqdm"}
CONSOLE, OPTIONS = "dg/runtime/console.py", "dg/options/"  # what speaks of the command line
# Heavy third parties, imported inside functions and by these modules only.
HEAVY = {
    "PIL": {
        "dg/evaluation/figures/pictures.py",
        "dg/data/image_decoding.py",
        "dg/data/crops.py",
    },
    "diffusers": {"dg/models/diffusers_guidance.py", "dg/models/diffusers_models.py"},
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

MOST_LINES, MOST_LINES_OF_A_FUNCTION = 350, 70
MOST_BYTES, MOST_BYTES_IN_ALL = 2_000_000, 60_000_000
# Hosts are spelled in two parts, so that this file does not name what it forbids.
PLACES = re.compile(
    rb"(?<![\w.])/(?:home|Users|root|work)/\w|C:[\\]Users|py" rb"pi[.]org|python" rb"hosted[.]org"
)


def name_of(path):
    return path.relative_to(ROOT).as_posix()


def speaks(path):
    return name_of(path) == CONSOLE or name_of(path).startswith(OPTIONS)


def imports_of(path):
    """Yield (dotted name, whether it stands inside a function) of everything that a file
    imports."""

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
    """`file: import` of every import for which rule(path, dotted name, inside a function) is
    true."""
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
    quiet = [path for path in LIBRARIES if not speaks(path)]
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


def modules_of(folder):
    return {
        ".".join(path.relative_to(ROOT).with_suffix("").parts).removesuffix(".__init__"): path
        for path in sorted((ROOT / folder).rglob("*.py"))
    }


def imports_at_top(path, modules):
    """Modules of the package that a module imports when it is loaded, itself left out."""
    names = {name for name, inside in imports_of(path) if not inside}
    found = {name if name in modules else name.rpartition(".")[0] for name in names}
    return {name for name in found if name in modules and modules[name] != path}


def test_no_import_of_dg_goes_in_a_circle():
    modules = modules_of("dg")
    left = {name: imports_at_top(path, modules) for name, path in modules.items()}
    while free := [name for name, needs in left.items() if not needs & left.keys()]:
        for name in free:
            del left[name]
    assert left == {}


# The rooms of dg from the lowest to the highest; a module imports its own room and those below it.
# The method stands at the root of dg, and evaluation, pretraining and samplers build on it.
ROOMS = (
    {"runtime"},
    {"data"},
    {"", "models", "samplers", "evaluation", "pretraining"},
    {"experiments"},
    {"options"},
)
HEIGHT = {room: height for height, rooms in enumerate(ROOMS) for room in rooms}


def room_of(module, modules):
    parts = module.split(".")
    is_room = len(parts) > 2 or modules[module].name == "__init__.py"
    return parts[1] if is_room and len(parts) > 1 else ""


def test_no_room_of_dg_imports_a_higher_one():
    modules = modules_of("dg")
    upward = [
        f"{name}: {used}"
        for name, path in modules.items()
        for used in imports_at_top(path, modules)
        if used != "dg" and HEIGHT[room_of(used, modules)] > HEIGHT[room_of(name, modules)]
    ]
    assert upward == []


def test_the_root_of_dg_is_the_method():
    assert len([path for path in (ROOT / "dg").glob("*.py") if path.name != "__init__.py"]) <= 17


def functions(tree):
    kinds = ast.FunctionDef | ast.AsyncFunctionDef
    return [node for node in ast.walk(tree) if isinstance(node, kinds)]


def test_files_and_functions_fit():
    long = []
    for path in SOURCES:
        if name_of(path).startswith(OPTIONS):
            continue
        text = path.read_text(encoding="utf-8")
        if (lines := len(text.splitlines())) > MOST_LINES:
            long.append(f"{name_of(path)}: {lines} lines")
        for node in functions(ast.parse(text)):
            if (lines := node.end_lineno - node.lineno + 1) > MOST_LINES_OF_A_FUNCTION:
                long.append(f"{name_of(path)}: {node.name} has {lines} lines")
    assert long == []


# Names under which networks and guidances go about.
OTHERS = {
    *("net", "network", "model", "guidance", "discriminator", "classifier", "extractor", "head"),
    *("vae", "autoencoder", "guide"),
}


def assigned(node):
    """The targets of an assignment, those of `a.x, b.y = ...` one by one."""
    if isinstance(node, ast.Assign):
        pending = list(node.targets)
    elif isinstance(node, ast.AugAssign | ast.AnnAssign):
        pending = [node.target]
    else:
        return
    while pending:
        target = pending.pop()
        if isinstance(target, ast.Tuple | ast.List):
            pending += target.elts
        else:
            yield target


def owner(node):
    """`net` of `net.x` and of `self.net.x`; None for `self.x`."""
    value = node.value
    return value.id if isinstance(value, ast.Name) else getattr(value, "attr", None)


def test_nobody_sets_an_attribute_on_a_network_or_a_guidance():
    found = [
        f"{name_of(path)}:{node.lineno}: {ast.unparse(target)}"
        for path in SOURCES
        if path.relative_to(ROOT).parts[0] != "benchmarks"
        for node in ast.walk(ast.parse(path.read_bytes()))
        for target in assigned(node)
        if isinstance(target, ast.Attribute) and owner(target) in OTHERS
    ]
    assert found == []


FLAG_NAME = re.compile(r"(?<![-\w])--[a-z]\w+")


def docstrings(tree):
    kinds = ast.Module | ast.ClassDef | ast.FunctionDef | ast.AsyncFunctionDef
    for node in ast.walk(tree):
        if isinstance(node, kinds) and ast.get_docstring(node) is not None:
            yield id(node.body[0].value)


def test_libraries_do_not_know_the_command_line():
    found = []
    for path in LIBRARIES:
        if speaks(path):
            continue
        tree = ast.parse(path.read_bytes())
        about = set(docstrings(tree))
        found += [
            f"{name_of(path)}:{node.lineno}: {match[0]}"
            for node in ast.walk(tree)
            if isinstance(node, ast.Constant) and isinstance(node.value, str)
            if "var(--" not in node.value  # a style sheet
            if id(node) not in about and (match := FLAG_NAME.search(node.value))
        ]
    assert found == []


# (file, attribute) that is asked for by name because it belongs to another project, whose versions
# differ.
ASKED_FOR = {
    ("dg/runtime/allocator.py", "mallopt"),  # of the C library, if it is glibc
    # of numpy's and torch's values, neither of which is imported
    (
        "dg/runtime/files.py",
        "tolist",
    ),
    ("dg/runtime/hardware.py", "_is_avx512_bf16_supported"),  # of torch.cpu, not in every version
    ("dg/runtime/downloads.py", "response"),  # of an error of requests, which is not imported
    ("dg/lora.py", "groups"),  # of a convolution, not of a linear layer
    ("dg/lora.py", "bias"),  # of a foreign layer that may have none
}


def test_capabilities_are_declared_and_not_asked_for():
    found = [
        f"{name_of(path)}:{node.lineno}: {ast.unparse(node)}"
        for path in LIBRARIES
        if path.relative_to(ROOT).parts[0] == "dg"
        for node in ast.walk(ast.parse(path.read_bytes()))
        if isinstance(node, ast.Call)
        and isinstance(node.func, ast.Name)
        and node.func.id in ("hasattr", "getattr")
        and isinstance(node.args[1], ast.Constant)
        and (name_of(path), node.args[1].value) not in ASKED_FOR
    ]
    assert found == []


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
