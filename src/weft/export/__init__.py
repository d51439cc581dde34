"""Models for other runtimes: :func:`weft.export.write.export_model` writes ONNX or a program of torch.export."""
