"""The mathematics of coresets for hidden layers: numpy and scipy only, nothing of ONNX."""
