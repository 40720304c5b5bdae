"""The models that stand in `models/`: their data, their training, their export. A developer's tool, not installed."""
