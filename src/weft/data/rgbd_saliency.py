"""RGB-D salient object detection: a photo, its depth, and the mask of what stands out.

``<root>/{RGB,depth,GT}``, or several such sets side by side, ``<root>/<set>/{RGB,depth,GT}`` (NJU2K, NLPR, DUT-RGBD,
SIP, STEREO, LFSD), files matched by stem, and optionally ``train.txt`` and ``test.txt`` beside them with one stem per
line (a set without either, beside sets with one, is test). What the releases of these sets differ in is said here once:

* folders are also called ``image(s)``, ``depths``, ``mask(s)``, in any case; extensions may differ inside one set;
* the sides of depth, mask and photo may differ: each is resized by whoever uses it, maps are judged at the mask's size;
* depth may have any range and 8, 16 or 32 bits: it is scaled to [0, 1] per image (a constant one is all 0), so that
  near is bright; ``near="dark"`` is for releases that store distance instead of disparity, per set if they differ;
* a mask is foreground above 128, or above half where it holds only 0 and 1. A mask without foreground is a fact and no
  error: its metrics are in :mod:`weft.tasks.saliency`.

Sets: Ju et al. 2014 (NJU2K), Peng et al. 2014 (NLPR), Piao et al. 2019 (DUT-RGBD), Fan et al. 2020 (SIP), Niu et al.
2012 (STEREO), Li et al. 2014 (LFSD).
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from dataclasses import dataclass, field
from pathlib import Path

import numpy as np
from PIL import Image

from weft.data.files import IMAGE_SUFFIXES, read_grey, read_image
from weft.errors import UserError, some

NEAR = ("bright", "dark")
FOLDERS = {
    "photo": ("rgb", "image", "images", "img"),
    "depth": ("depth", "depths"),
    "mask": ("gt", "mask", "masks"),
}
LAYOUT = "{RGB,depth,GT}/<stem>.<jpg, png, bmp>, or <set>/{RGB,depth,GT}/... of several sets"


@dataclass(frozen=True, eq=False)
class RgbdSaliency:
    """Photos with depth and masks, read when asked for. :func:`weft.data.make_splits` and ``make_folds`` take it.

    Attributes:
        name: of the folder.
        ids: ``<stem>``, or ``<set>/<stem>`` where there are several sets.
        photos, depths: a path per row.
        masks: a path per row, or None where there is none.
        near: per row, whether near is stored ``"bright"`` or ``"dark"``.
        split: ``(N,)`` "train" | "test", or None.
        group: ``(N,)`` rows of one scene, or None.
    """

    name: str
    ids: list[str]
    photos: list[Path]
    depths: list[Path]
    masks: list[Path | None]
    near: list[str]
    split: np.ndarray | None = None
    group: np.ndarray | None = None
    task: str = "saliency"
    targets: Mapping[str, np.ndarray] = field(default_factory=dict)

    def __len__(self) -> int:
        return len(self.ids)

    def photo(self, row: int) -> np.ndarray:
        """``(H, W, 3)`` uint8.

        Raises:
            UserError: the file cannot be read; the row is named (also by ``depth`` and ``mask``).
        """
        return np.asarray(read_image(self.photos[row], f"photo of row {self.ids[row]!r}"))

    def depth(self, row: int) -> np.ndarray:
        """``(H, W)`` float32 in [0, 1], near is 1."""
        raw = read_grey(self.depths[row], f"depth of row {self.ids[row]!r}")
        there = np.isfinite(raw)
        if not there.any():
            return np.zeros_like(raw)
        low, high = float(raw[there].min()), float(raw[there].max())
        if low == high:
            return np.zeros_like(raw)
        scaled = np.where(there, (raw - low) / (high - low), 0.0).astype(np.float32)
        return scaled if self.near[row] == "bright" else np.where(there, 1 - scaled, 0.0).astype(np.float32)

    def mask(self, row: int) -> np.ndarray:
        """``(H, W)`` bool, True where the image stands out."""
        path = self.masks[row]
        if path is None:
            raise UserError(
                "a row has no mask", f"row {self.ids[row]!r} of {self.name}", "add the file to GT/, or only predict"
            )
        raw = read_grey(path, f"mask of row {self.ids[row]!r}")
        return raw > (0.5 if raw.max(initial=0) <= 1 else 128)


def read_rgbd_saliency(
    root: str | Path,
    *,
    near: str | Mapping[str, str] = "bright",
    masks: bool = True,
    scenes: str | Path | None = None,
) -> RgbdSaliency:
    """Read a folder in the layout above; files are listed, not opened.

    Args:
        root: one set, or the folder of several.
        near: how near is stored, for all sets or ``{set: ...}`` (sets that are not named: ``"bright"``).
        masks: whether every row must have one; False to predict photos without.
        scenes: a text file that says which rows show one scene: their ids, one scene per line. Rows it does not name
            are scenes of their own. None: nothing is known of scenes.

    Raises:
        UserError: no such layout, a photo without depth or mask, two files with one stem, a listed stem without photo,
            one that is in both lists, or in two scenes; rows are named.
    """
    root = Path(root)
    if not root.is_dir():
        raise UserError("RGB-D saliency is read from a folder", f"no such folder: {root}", f"give one with {LAYOUT}")
    sets = [root] if _folder(root, "photo") else sorted(f for f in root.iterdir() if f.is_dir() and _folder(f, "photo"))
    if not sets:
        raise UserError("no RGB-D saliency set here", f"{root} has no RGB/ or image/", f"expected {LAYOUT}")
    stored = _stored(near, [part.name for part in sets])
    parts = [_read_set(part, "" if part == root else f"{part.name}/", stored[part.name], masks) for part in sets]
    listed = any(part.split is not None for part in parts)
    splits = [np.full(len(part), "test") if part.split is None else part.split for part in parts]
    ids = [row for part in parts for row in part.ids]
    return RgbdSaliency(
        name=root.name,
        ids=ids,
        photos=[path for part in parts for path in part.photos],
        depths=[path for part in parts for path in part.depths],
        masks=[path for part in parts for path in part.masks],
        near=[value for part in parts for value in part.near],
        split=np.concatenate(splits) if listed else None,
        group=None if scenes is None else _read_scenes(Path(scenes), ids),
    )


def _stored(near: str | Mapping[str, str], names: list[str]) -> dict[str, str]:
    stored = dict.fromkeys(names, "bright")
    stored |= near if isinstance(near, Mapping) else dict.fromkeys(names, near)
    unknown = [name for name in stored if name not in names]
    wrong = [value for value in stored.values() if value not in NEAR]
    if unknown or wrong:
        raise UserError(
            "near says of a set whether near is stored bright or dark",
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


def _read_set(root: Path, prefix: str, near: str, need_masks: bool) -> RgbdSaliency:
    files: dict[str, dict[str, Path]] = {}
    for kind in FOLDERS:
        folder = _folder(root, kind)
        if folder is None and (kind != "mask" or need_masks):
            raise UserError(f"{root} has no folder of {kind}s", "none of " + some(FOLDERS[kind]), f"expected {LAYOUT}")
        files[kind] = {} if folder is None else _files(folder)
    stems = sorted(files["photo"])
    if not stems:
        raise UserError("the folder of photos is empty", str(root), f"expected {LAYOUT}")
    for kind in ("depth", "mask") if need_masks else ("depth",):
        gone = [prefix + stem for stem in stems if stem not in files[kind]]
        if gone:
            raise UserError(
                f"every photo has a {kind} of the same stem",
                f"{len(gone)} of {len(stems)} rows have none: {some(gone)}",
                f"restore the {kind} files, or move these photos away",
            )
    return RgbdSaliency(
        name=root.name,
        ids=[prefix + stem for stem in stems],
        photos=[files["photo"][stem] for stem in stems],
        depths=[files["depth"][stem] for stem in stems],
        masks=[files["mask"].get(stem) for stem in stems],
        near=[near] * len(stems),
        split=_read_split(root, stems),
    )


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


def resized(image: np.ndarray, size: tuple[int, int]) -> np.ndarray:
    """An ``(H, W)`` float or bool, or ``(H, W, 3)`` uint8 image at ``(height, width)``, bilinear with antialiasing."""
    pixels = image.astype(np.float32) if image.ndim == 2 else image
    return np.asarray(Image.fromarray(pixels).resize((size[1], size[0]), Image.Resampling.BILINEAR))
