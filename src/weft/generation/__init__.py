"""Encoder-decoder architectures: one modality to another."""
