"""The server: ONNX models of a repository behind the Open Inference Protocol."""
