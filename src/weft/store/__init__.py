"""Features on disk: encoded once, checked, memory-mapped, resumable."""

from weft.store.encode import encode
from weft.store.encode_report import EncodeReport
from weft.store.features import Features, MemoryFeatures
from weft.store.inspect import StoreReport, inspect_store
from weft.store.store import Store

__all__ = ["EncodeReport", "Features", "MemoryFeatures", "Store", "StoreReport", "encode", "inspect_store"]
