"""The ONNX file: written, read, proven, published."""
