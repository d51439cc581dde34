"""RGB-D salient object detection: a photo, its depth, and the mask of what stands out.

``<root>/{RGB,depth,GT}``, or several such sets side by side, ``<root>/<set>/{RGB,depth,GT}`` (NJU2K, NLPR, DUT-RGBD,
SIP, STEREO, LFSD), files matched by stem, and optionally ``train.txt`` and ``test.txt`` beside them with one stem per
line (a set without either, beside sets with one, is test). What the releases of these sets differ in is said here once:

* folders are also called ``image(s)``, ``depths``, ``mask(s)``, in any case; extensions may differ inside one set;
* the sides of depth, mask and photo may differ: each is resized by whoever uses it, maps are judged at the mask's size;
* depth may have any range and 8, 16 or 32 bits: it is scaled to [0, 1] per image (a constant one is all 0), so that
  near is bright; ``near="dark"`` is for releases that store distance instead of disparity, per set if they differ;
* a mask is foreground above 128, or above half where it holds only 0 and 1. A mask without foreground is a fact and no
  error: its metrics are in :mod:`weft.systems.rgbd_saliency.metrics`.

Sets: Ju et al. 2014 (NJU2K), Peng et al. 2014 (NLPR), Piao et al. 2019 (DUT-RGBD), Fan et al. 2020 (SIP), Niu et al.
2012 (STEREO), Li et al. 2014 (LFSD).
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np

from weft.data import Dataset, Modality
from weft.data.dataset import FolderReader, datasets
from weft.data.files import IMAGE_SUFFIXES, read_grey, read_image
from weft.data.kinds.depth import DepthFile
from weft.errors import UserError, some

NEAR = ("bright", "dark")
KINDS = {"rgb": "image", "depth": "depth", "mask": "image"}
FOLDERS = {
    "photo": ("rgb", "image", "images", "img"),
    "depth": ("depth", "depths"),
    "mask": ("gt", "mask", "masks"),
}
LAYOUT = "{RGB,depth,GT}/<stem>.<jpg, png, bmp>, or <set>/{RGB,depth,GT}/... of several sets"


@datasets.register("rgbd-saliency")
class RgbdSaliencyReader(FolderReader):
    """Photos with depth and masks, one set or several; for the system ``rgbd-saliency``.

    Args:
        near: how near is stored, for all sets or ``{set: ...}`` (sets that are not named: ``"bright"``).
        scenes: a text file that says which rows show one scene: their ids, one scene per line; they stay in one part
            of a split. Rows it does not name are scenes of their own. None: nothing is known of scenes.
    """

    paper = "Ju 2014 (NJU2K), Peng 2014 (NLPR), Piao 2019 (DUT-RGBD), Fan 2020 (SIP), Niu 2012 (STEREO), Li 2014 (LFSD)"
    layout = LAYOUT

    def __init__(self, *, near: str | dict[str, str] = "bright", scenes: str | Path | None = None) -> None:
        self.near, self.scenes = near, scenes

    def read(self, root: Path) -> Dataset:
        """Modalities ``rgb``, ``depth`` and ``mask`` (absent in rows without); files are listed, not opened.

        Raises:
            UserError: no such layout, a photo without depth, two files with one stem, a listed stem without photo, one
                that is in both lists, or in two scenes; rows are named.
        """
        alone = _folder(root, "photo") is not None
        sets = [root] if alone else sorted(f for f in root.iterdir() if f.is_dir() and _folder(f, "photo"))
        if not sets:
            raise UserError("no RGB-D saliency set here", f"{root} has no RGB/ or image/", f"expected {LAYOUT}")
        stored = _stored(self.near, [part.name for part in sets])
        parts = [_read_set(part, "" if alone else f"{part.name}/", stored[part.name]) for part in sets]
        listed = any(part.split is not None for part in parts)
        splits = [np.full(len(part.ids), "test") if part.split is None else part.split for part in parts]
        ids = [row for part in parts for row in part.ids]
        columns = {name: [value for part in parts for value in part.files[name]] for name in KINDS}
        return Dataset(
            name=root.name,
            ids=ids,
            modalities={name: Modality(KINDS[name], values) for name, values in columns.items()},
            targets={},
            split=np.concatenate(splits) if listed else None,
            group=None if self.scenes is None else _read_scenes(Path(self.scenes), ids),
            task="saliency",
        )


def photo(data: Dataset, row: int, column: str = "rgb") -> np.ndarray:
    """``(H, W, 3)`` uint8.

    Raises:
        UserError: the file cannot be read; the row is named (also by :func:`depth` and :func:`mask`).
    """
    return np.asarray(read_image(data.modalities[column].values[row], f"photo of row {data.ids[row]!r}"))


def depth(data: Dataset, row: int, column: str = "depth") -> np.ndarray:
    """``(H, W)`` float32 in [0, 1], near is 1."""
    value = data.modalities[column].values[row]
    path, near = value if isinstance(value, DepthFile) else (value, "bright")
    raw = read_grey(path, f"depth of row {data.ids[row]!r}")
    there = np.isfinite(raw)
    if not there.any():
        return np.zeros_like(raw)
    low, high = float(raw[there].min()), float(raw[there].max())
    if low == high:
        return np.zeros_like(raw)
    scaled = np.where(there, (raw - low) / (high - low), 0.0).astype(np.float32)
    return scaled if near == "bright" else np.where(there, 1 - scaled, 0.0).astype(np.float32)


def mask(data: Dataset, row: int, column: str = "mask") -> np.ndarray:
    """``(H, W)`` bool, True where the image stands out.

    Raises:
        UserError: the row has no mask.
    """
    path = data.modalities[column].values[row] if column in data.modalities else None
    if path is None:
        raise UserError(
            "a row has no mask", f"row {data.ids[row]!r} of {data.name}", "add the file to GT/, or only predict"
        )
    raw = read_grey(path, f"mask of row {data.ids[row]!r}")
    return raw > (0.5 if raw.max(initial=0) <= 1 else 128)


def _stored(near: str | Mapping[str, str], names: list[str]) -> dict[str, str]:
    stored = dict.fromkeys(names, "bright")
    stored |= near if isinstance(near, Mapping) else dict.fromkeys(names, near)
    unknown = [name for name in stored if name not in names]
    wrong = [value for value in stored.values() if value not in NEAR]
    if unknown or wrong:
        raise UserError(
            "near says whether a set stores near as bright or dark",
            f"near={near!r}, sets {some(names)}",
            "for example near='dark', or near={'NLPR': 'dark'}",
        )
    return stored


def _folder(root: Path, kind: str) -> Path | None:
    """The folder of photos, depths or masks, whatever its spelling."""
    found = [f for f in sorted(root.iterdir()) if f.is_dir() and f.name.lower() in FOLDERS[kind]]
    if len(found) > 1:
        names = some(f.name for f in found)
        raise UserError(f"two folders may hold the {kind}s of {root}", names, "keep one of them there")
    return found[0] if found else None


def _files(folder: Path) -> dict[str, Path]:
    """``{stem: path}`` of the images of a folder."""
    found: dict[str, Path] = {}
    for path in sorted(folder.iterdir()):
        if path.suffix.lower() not in IMAGE_SUFFIXES or path.name.startswith("."):
            continue
        if path.stem in found:
            raise UserError(
                "two files of a folder have one stem, and rows are matched by stem",
                f"{found[path.stem]} and {path.name}",
                "remove one of them",
            )
        found[path.stem] = path
    return found


class _Set(NamedTuple):
    """One set: ids, files by modality, and the part of each row."""

    ids: list[str]
    files: dict[str, list[Any]]
    split: np.ndarray | None


def _read_set(root: Path, prefix: str, near: str) -> _Set:
    files: dict[str, dict[str, Path]] = {}
    for kind in FOLDERS:
        folder = _folder(root, kind)
        if folder is None and kind != "mask":
            raise UserError(f"{root} has no folder of {kind}s", "none of " + some(FOLDERS[kind]), f"expected {LAYOUT}")
        files[kind] = {} if folder is None else _files(folder)
    stems = sorted(files["photo"])
    if not stems:
        raise UserError("the folder of photos is empty", str(root), f"expected {LAYOUT}")
    gone = [prefix + stem for stem in stems if stem not in files["depth"]]
    if gone:
        raise UserError(
            "every photo has a depth of the same stem",
            f"{len(gone)} of {len(stems)} rows have none: {some(gone)}",
            "restore the depth files, or move these photos away",
        )
    columns: dict[str, list[Any]] = {
        "rgb": [files["photo"][stem] for stem in stems],
        "depth": [DepthFile(files["depth"][stem], near) for stem in stems],
        "mask": [files["mask"].get(stem) for stem in stems],
    }
    return _Set([prefix + stem for stem in stems], columns, _read_split(root, stems))


def _read_split(root: Path, stems: list[str]) -> np.ndarray | None:
    """From train.txt and test.txt; with one of them, all other rows are the other part."""
    lists = {
        part: [_stem(line) for line in (root / f"{part}.txt").read_text(encoding="utf-8").split("\n") if line.strip()]
        for part in ("train", "test")
        if (root / f"{part}.txt").is_file()
    }
    if not lists:
        return None
    _refuse(root, "a listed stem has no photo", (s for part in lists.values() for s in part if s not in set(stems)))
    if len(lists) == 2:
        _refuse(root, "a row is in both train.txt and test.txt", sorted(set(lists["train"]) & set(lists["test"])))
        listed = {*lists["train"], *lists["test"]}
        _refuse(root, "a row is in neither train.txt nor test.txt", sorted(set(stems) - listed))
        return np.array(["train" if stem in set(lists["train"]) else "test" for stem in stems])
    (part, rows), other = next(iter(lists.items())), {"train": "test", "test": "train"}
    return np.array([part if stem in set(rows) else other[part] for stem in stems])


def _read_scenes(path: Path, ids: list[str]) -> np.ndarray:
    """``(N,)``: the first row of each row's scene."""
    if not path.is_file():
        raise UserError("scenes are read from a text file", f"no such file: {path}", "one scene per line, ids of rows")
    lines = [line.split() for line in path.read_text(encoding="utf-8").split("\n") if line.strip()]
    named = [row for line in lines for row in line]
    _refuse(path, "a row of a scene has no photo", (row for row in named if row not in set(ids)))
    _refuse(path, "a row is in two scenes", sorted({row for row in named if named.count(row) > 1}))
    scene = {row: line[0] for line in lines for row in line}
    return np.array([scene.get(row, row) for row in ids])


def _stem(line: str) -> str:
    """``"RGB/a.jpg"`` and ``"a"`` both name row ``a``; a dot that starts no image suffix is part of the stem."""
    name = line.strip().replace("\\", "/").rsplit("/", 1)[-1]
    return Path(name).stem if Path(name).suffix.lower() in IMAGE_SUFFIXES else name


def _refuse(root: Path, what: str, stems: Iterable[str]) -> None:
    found = list(stems)
    if found:
        raise UserError(f"{root}: {what}", some(found), "correct the lists")
