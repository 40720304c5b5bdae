"""Activations: programs of elementwise steps, and the records that name the well-known ones."""
