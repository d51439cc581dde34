"""Raw samples: tables of one's own, published sets in their official layouts, and sets with known answers."""

from weft.data.dataset import BuiltIn, Dataset, FolderReader, Modality, Reader, datasets, load_dataset
from weft.data.files import read_array, read_audio, read_image
from weft.data.guess import guess_table, to_commented_yaml
from weft.data.splits import Split, make_folds, make_splits
from weft.data.table import (
    ModalityConfig,
    SplitsConfig,
    TableConfig,
    load_config,
    read_table,
)

__all__ = [
    "BuiltIn",
    "Dataset",
    "FolderReader",
    "Modality",
    "ModalityConfig",
    "Reader",
    "Split",
    "SplitsConfig",
    "TableConfig",
    "datasets",
    "guess_table",
    "load_config",
    "load_dataset",
    "make_folds",
    "make_splits",
    "read_array",
    "read_audio",
    "read_image",
    "read_table",
    "to_commented_yaml",
]
