"""CMU-MOSI: is a spoken opinion positive? Utterance features of what is said, how, and with which face.

Modalities are vectors: ``text`` (100), ``audio`` (73) and ``video`` (100); target ``label`` 0 (negative) or 1. Row
ids are ``<video>_<utterance>``. Split train and test by video, official; a dev part is cut out of train by
``make_splits``. Group: the video.

Zadeh et al. 2016, MOSI (arXiv:1606.06259); features of Poria et al. 2017, Context-Dependent Sentiment Analysis in
User-Generated Videos (ACL). Research use only.
"""

from __future__ import annotations

from pathlib import Path

import numpy as np

from weft.data.dataset import Dataset, FolderReader, Modality, datasets
from weft.errors import UserError, some

NAMES = ("text", "audio", "video")


@datasets.register("mosi")
class Mosi(FolderReader):
    """CMU-MOSI utterance features: text, audio, video; classification of the sentiment."""

    paper = "Zadeh et al. 2016, MOSI (arXiv:1606.06259)"
    layout = "mosi_utt.npz (arrays {train,test}_{text,audio,video,label,id})"

    def read(self, root: Path) -> Dataset:
        """Read the folder, or the file itself.

        Raises:
            UserError: the file lacks arrays of the set.
        """
        path = root if root.is_file() else self.file(root, "mosi_utt.npz")
        with np.load(path, allow_pickle=False) as content:
            wanted = [f"{part}_{name}" for part in ("train", "test") for name in (*NAMES, "label", "id")]
            missing = [name for name in wanted if name not in content]
            if missing:
                raise UserError(f"{path}: missing arrays", some(missing), f"expected {self.layout}")
            columns = {
                name: np.concatenate([content[f"train_{name}"], content[f"test_{name}"]])
                for name in (*NAMES, "label", "id")
            }
            sizes = [len(content["train_id"]), len(content["test_id"])]
        ids = columns["id"].tolist()
        return Dataset(
            name="mosi",
            ids=ids,
            modalities={name: Modality("vector", list(columns[name])) for name in NAMES},
            targets={"label": columns["label"].astype(np.int64)},
            split=np.repeat(["train", "test"], sizes),
            group=np.array([row.rpartition("_")[0] for row in ids]),
            task="classification",
        )
