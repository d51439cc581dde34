"""Raw samples to tokens, frozen: transformers models by name, and built-in encoders that need no weights."""

from weft.encoders.base import BadValue, Encoder, create_encoder, default_encoder, encoders, restore_encoder

__all__ = ["BadValue", "Encoder", "create_encoder", "default_encoder", "encoders", "restore_encoder"]
