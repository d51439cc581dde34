"""Raw samples: tables of one's own, published sets in their official layouts, and sets with known answers."""

from weft.data.commented_yaml import to_commented_yaml
from weft.data.dataset import BuiltIn, Dataset, FolderReader, Modality, Reader, datasets, load_dataset
from weft.data.failure import Failure
from weft.data.files import read_array, read_audio, read_image
from weft.data.guess import Proposal, guess_table, propose_table
from weft.data.kinds import Kind, kinds
from weft.data.more_rows import read_more
from weft.data.splits import Split, make_folds, make_splits
from weft.data.table import read_table
from weft.data.table_config import ModalityConfig, SplitsConfig, TableConfig, load_config

__all__ = [
    "BuiltIn",
    "Dataset",
    "Failure",
    "FolderReader",
    "Kind",
    "Modality",
    "ModalityConfig",
    "Proposal",
    "Reader",
    "Split",
    "SplitsConfig",
    "TableConfig",
    "datasets",
    "guess_table",
    "kinds",
    "load_config",
    "load_dataset",
    "make_folds",
    "make_splits",
    "propose_table",
    "read_array",
    "read_audio",
    "read_image",
    "read_more",
    "read_table",
    "to_commented_yaml",
]
