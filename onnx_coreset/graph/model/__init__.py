"""A model opened for finding and editing: nodes, tensors, constants and shapes over the original messages."""
