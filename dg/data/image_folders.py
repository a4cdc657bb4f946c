"""What names of image files say: which are images, their order and seeds, classes and splits."""

import json
import math
import os
import re
from itertools import pairwise
from typing import NamedTuple

import numpy as np

from dg.data.file_list import HIDDEN, Files
from dg.data.images import MOST_CLASSES
from dg.runtime.progress import unheard
from tensor_files.reading import shown

# train, Test, val2017, training_set: what folders and files of splits are called.
SPLIT = re.compile(
    r"(train|training|test|testing|val|valid|validation|heldout|eval|dev)"
    r"([_-]?(set|images|data|split|[0-9]+))*",
    re.IGNORECASE,
)
ZEROS = dict.fromkeys(map(ord, "123456789"), "0")  # for str.translate
SPLIT_OF_FILE = re.compile(rf"(?:.*[_-])?{SPLIT.pattern}", re.IGNORECASE)  # cifar10_test too


class Arrangement(NamedTuple):
    """Images in their order.

    names        of the files
    seeds        int64 [N], None where the images are not named by seed
    labels       int64 [N], None without classes
    class_names  names of the class folders, None where labels come from elsewhere
    """

    names: list[str]
    seeds: np.ndarray | None
    labels: np.ndarray | None
    class_names: tuple[str, ...] | None


def split_folder(files: Files, names, split, notify):
    """The folder that is meant of those with the files `names`, '' for all.

    split  the name of a sub-folder; None: `train` where there are several folders of splits
    """
    parts = _common_folder(names).split("/")
    bases = ["/".join([*parts[:depth], ""]) if depth else "" for depth in range(len(parts))]
    if split is not None:
        found = (f"{base}{split}" for base in bases)
        if folder := next((f for f in found if any(n.startswith(f"{f}/") for n in names)), None):
            return folder
        raise ValueError(f"{files.path} has no sub-folder {split!r}; leave the split out")
    if any(f"{base}dataset.json" in files.names for base in bases):
        return ""  # one set, of which it has the labels
    base = bases[-1]
    inside = [name.removeprefix(base) for name in names]
    beside = sorted({name.split("/")[0] for name in inside})
    folders = {name.split("/")[0] for name in inside if "/" in name}
    splits = [name for name in beside if name in folders and SPLIT.fullmatch(name)]
    if len(splits) < 2:
        return ""
    return base + training_split(files.path, beside, splits, ":", notify)


def training_split(path, beside, splits, joint, notify):
    """The one of the names `splits` that is meant for training, if nothing stands beside them.

    joint  between the path and the name of a split, where that is to be given
    """
    kinds = {name: SPLIT_OF_FILE.fullmatch(stem(name))[1].lower() for name in splits}
    train = [name for name, kind in kinds.items() if kind in ("train", "training")]
    others = [name for name in beside if name not in splits]
    if len(train) != 1 or others:
        which = f" and {others[0]}" if others else ""
        raise ValueError(
            f"{path} holds the splits {', '.join(splits)}{which}; name one, such as "
            f"{path}{joint}{(train or splits)[0]}"
        )
    rest = ", ".join(name for name in splits if name not in train)
    notify(f"{path}: the split {train[0]} is taken; {rest} left out")
    return train[0]


def stem(name):
    """The name of a file without folders and suffix."""
    return os.path.splitext(name.split("/")[-1])[0]


def arranged(files, names, notify):
    """The Arrangement of the images `names` of `files`."""
    base = _common_folder(names)
    inside = {name: name.removeprefix(base) for name in names}
    seeds, folders = _seeds(inside), None
    told, labels = _dataset_json(files, names, base)
    if not told and not seeds:
        folders = _class_folders(files.path, inside, notify)
    order = by_number(files.path, names, notify, folders, seeds)
    if seeds:
        _check_distinct(files.path, order, seeds)
    class_names = None
    if folders:
        class_names = tuple(sorted(set(folders.values()), key=_rank))
        number = {folder: i for i, folder in enumerate(class_names)}
        labels = {name: number[folder] for name, folder in folders.items()}
        notify(f"{files.path}: {described_classes(class_names)}")
    return Arrangement(
        order,
        np.array([seeds[name] for name in order]) if seeds else None,
        np.array([labels[name] for name in order]) if labels else None,
        class_names,
    )


def described_classes(names, most=20):
    """`3 classes: 0 cat, 1 dog, 2 owl`; the middle of a long list is left out."""
    pairs = [f"{number} {name}" for number, name in enumerate(names)]
    if len(pairs) > most:
        pairs = [*pairs[: most // 2], "...", *pairs[-most // 2 :]]
    return f"{len(names)} classes: {', '.join(pairs)}"


def _common_folder(names):
    """The folder, as `a/b/` or ``, in which all the names are."""
    first, last = min(names).split("/")[:-1], max(names).split("/")[:-1]
    shared = os.path.commonprefix([first, last])
    return "/".join([*shared, ""]) if shared else ""


def _seeds(inside):
    """{name: seed} where all images are named by seed, else None.

    They are 000123.png, or in folders by the thousand, as EDM makes them, 000000/000123.png.
    """
    flat = all(re.fullmatch(r"[0-9]{1,18}\.\w+", name) for name in inside.values())
    by_thousands = re.compile(r"([0-9]{3,15}000)/([0-9]{6,18})\.\w+")
    if not flat:
        for name in inside.values():
            match = by_thousands.fullmatch(name)
            if not match or int(match[1]) != int(match[2]) // 1000 * 1000:
                return None
    return {name: int(rel.split("/")[-1].split(".")[0]) for name, rel in inside.items()}


def _check_distinct(path, names, seeds):
    for first, second in pairwise(names):
        if seeds[first] == seeds[second]:
            raise ValueError(f"{path}: {first} and {second} are of the same seed; keep one of them")


def _numbers(names):
    """{name: its numbers} where all files are named alike but for numbers, else None."""
    parts = {name: re.split(r"(\d+)", stem(name)) for name in names}
    if len({tuple(part[::2]) for part in parts.values()}) > 1:
        return None
    return {name: tuple(map(int, part[1::2])) for name, part in parts.items()}


def by_number(path, names, notify, folders=None, seeds=None):
    """The names in order: by seed; else by the numbers in which they differ; else as text.

    folders  {name: class folder}; folders that are numbers come in the order of the numbers
    """
    if seeds:
        order, plain = sorted(names, key=seeds.get), sorted(names)
    elif len({name.translate(ZEROS) for name in names}) == 1:  # numbers of one width, as in a zip
        order = plain = sorted(names)  # of a million images, which this is for
    else:
        ranks = folders and all(folder.isdecimal() for folder in folders.values())
        order, plain = (
            sorted(names, key=lambda name: _key(name, ranks and folders, numbers))
            for numbers in (_numbers(names), None)
        )
    if order != plain:
        notify(f"{path}: the files are in the order of the numbers in their names")
    return order


def as_text(path, names, notify):
    """The names in the order of text, which is told where it is not the order of their numbers."""
    order = sorted(names)
    if by_number(path, names, unheard) != order:
        notify(f"{path}: the files are in the order of their names as text, 10 before 2")
    return order


def _key(name, folders, numbers):
    if not folders and not numbers:
        return name
    rank = _rank(folders[name]) if folders else ()
    return rank, name.rpartition("/")[0] + "/", numbers[name] if numbers else (), name


def _rank(folder):
    """Sort key of class folders: numbers as numbers."""
    return (int(folder), folder) if folder.isdecimal() else (math.inf, folder)


def _class_folders(path, inside, notify):
    """{name: class folder} where all images lie in class folders, else None.

    A class may have one folder of the same name in every class, such as cat/images/0.png. Where
    pictures lie above class folders, it cannot be known what they are: a ValueError.
    """
    depth = {name: rel.count("/") for name, rel in inside.items()}
    deepest = max(depth.values())
    deep = [name for name in inside if depth[name] == deepest]
    base = _common_folder([inside[name] for name in deep])
    parts = {name: inside[name].removeprefix(base).split("/")[:-1] for name in deep}
    found = {name: folders[0] for name, folders in parts.items() if folders}
    below = {tuple(folders[1:]) for folders in parts.values()}
    if len(set(found.values())) < 2 or len(below) > 1 or len(max(below)) > 1:
        if len({rel.split("/")[0] for rel in inside.values() if "/" in rel}) > 1:
            notify(f"{path}: no labels; its folders are not one for each class")
        return None
    if above := sorted(name for name in inside if name not in found):
        some = ", ".join(sorted(set(found.values()), key=_rank)[:3])
        raise ValueError(
            f"{path}: {above[0]} lies above the class folders {some}; move it away, or say with a "
            'dataset.json of {"labels": null} that there are no classes'
        )
    return found


def _dataset_json(files, names, base):
    """(whether there is EDM's {"labels": [[name, label], ...]}, {name: label}); None for null."""
    tables = [name for name in files.names if name.split("/")[-1] == "dataset.json"]
    tables = sorted((t for t in tables if not HIDDEN.search(t)), key=lambda t: (t.count("/"), t))
    if not tables:
        return False, None
    table_name = tables[0]
    folder = table_name.removesuffix("dataset.json")
    if not base.startswith(folder):
        outside = next(name for name in sorted(names) if not name.startswith(folder))
        raise ValueError(
            f"{files.path}: {table_name} has no label for {outside}, which lies outside of its "
            f"folder; move what is not in {folder.rstrip('/')} away"
        )
    where = f"{files.path}: {table_name}"
    try:
        entries = json.loads(files.read(table_name)).get("labels")
        table = entries and {folder + n.replace("\\", "/"): label for n, label in entries}
    except Exception as error:  # not readable, not JSON, or JSON of another shape
        raise ValueError(
            f"{where} is not as EDM writes it ({shown(error)}); restore or delete it"
        ) from error
    if entries is None:
        return True, None
    if missing := next((name for name in names if name not in table), None):
        raise ValueError(f'{where} has no label for {missing}; add it, or set "labels" to null')
    if len(table) != len(names):
        raise ValueError(
            f"{where} has {len(table)} labels for {len(names)} images; restore the missing images"
        )
    for name, label in table.items():
        if type(label) is not int or not 0 <= label < MOST_CLASSES:
            found = shown(ValueError(repr(label)))
            raise ValueError(f"{where} has label {found} for {name}; number the classes from 0")
    return True, table
