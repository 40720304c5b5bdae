"""Everything that touches a disk or a device: model files, their external data, reports, ONNX Runtime."""
