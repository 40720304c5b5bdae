"""ONNX graphs: following a neuron axis, reading hidden layers, writing coresets. No arithmetic on weights."""
