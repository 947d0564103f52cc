"""Code shared by the tests of several folders: ONNX files, requests, a raw gRPC stub."""
