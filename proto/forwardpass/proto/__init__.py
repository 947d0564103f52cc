"""The contracts between the parts: the wire (`inference.proto`) and the file (ONNX metadata)."""
