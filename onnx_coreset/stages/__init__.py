"""The stages of a run, in their order: opening, sampling, narrowing, writing, summing up."""
