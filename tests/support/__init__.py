"""What the tests of several folders share: ONNX files, requests, a raw gRPC stub."""
