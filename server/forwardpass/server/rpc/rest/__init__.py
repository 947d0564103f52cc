"""The Open Inference Protocol over HTTP: JSON and Triton's binary tensors, to messages and back."""
