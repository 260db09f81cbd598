"""The forward pass as onnxruntime graphs with int8 weights."""
