"""Zip archives whose entries are no larger than the archive can hold."""

import os
import zipfile

from tensor_files.reading import FileError, open_file

METHODS = (zipfile.ZIP_STORED, zipfile.ZIP_DEFLATED)
MOST_EXPANSION = 1032  # of deflate: no stream of it grows more


def open_archive(path) -> zipfile.ZipFile:
    """A zip archive, opened for reading, of a regular file.

    FileError where entries together claim more than the file has, where one claims more than its
    bytes can expand to, or where an entry is packed in another way than by deflate. Damage raises
    what zipfile raises.
    """
    with open_file(path) as file:
        size = os.fstat(file.fileno()).st_size
    archive = zipfile.ZipFile(path)
    try:
        _check(archive.infolist(), size)
    except FileError:
        archive.close()
        raise
    return archive


def _check(entries: list[zipfile.ZipInfo], size: int) -> None:
    if odd := [info.filename for info in entries if info.compress_type not in METHODS]:
        raise FileError(f"packs {odd[0]!a} in an unusual way; save it with deflate or unpacked")
    if sum(info.compress_size for info in entries) > size:
        raise FileError("claims more than the file holds; get or make it again")
    for info in entries:
        packed = info.compress_type != zipfile.ZIP_STORED
        if info.file_size > info.compress_size * (MOST_EXPANSION if packed else 1):
            raise FileError(f"claims too much for {info.filename!a}; get or make it again")
