"""Which encoder reads which modality of a data set."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from weft.data import Dataset, TableConfig
from weft.encoders.base import Encoder, create_encoder, default_encoder
from weft.errors import UserError, did_you_mean


def encoders_of(dataset: Dataset, config: TableConfig | None, chosen: Mapping[str, str]) -> dict[str, Encoder]:
    """One encoder per modality: the one chosen, else the configuration's, else the built-in that needs no weights.

    Raises:
        UserError: an encoder is chosen for a modality that is not there, or is unknown.
    """
    columns = {} if config is None else config.modalities
    named: dict[str, tuple[str, dict[str, Any]]] = {
        name: (column.encoder, column.options) for name, column in columns.items() if column.encoder
    }
    for name, spec in chosen.items():
        if name not in dataset.modalities:
            raise UserError("--encoder names no modality", name, did_you_mean(name, dataset.modalities, "modalities"))
        named[name] = (spec, {})
    found: dict[str, Encoder] = {}
    for name, modality in dataset.modalities.items():
        spec, options = named.get(name, (default_encoder(modality.kind), {}))
        found[name] = create_encoder(spec, modality.kind, **options)
    return found


def encoders_like(made: Mapping[str, Mapping[str, Any]], chosen: Mapping[str, str]) -> dict[str, Encoder]:
    """The encoders of a store again, of what its manifest says of each modality, or those that are chosen instead.

    Raises:
        UserError: an encoder was built by hand, so nobody knows how.
    """
    found = {}
    for name, entry in made.items():
        recipe = entry["recipe"]
        if recipe is None and name not in chosen:
            remedy = f"name it: --encoder {name}=..."
            raise UserError(f"the encoder of {name!r} cannot be made again", "it was built by hand", remedy)
        spec, options = (chosen[name], {}) if name in chosen else (recipe["spec"], recipe["options"])
        found[name] = create_encoder(spec, entry["kind"], **options)
    return found
