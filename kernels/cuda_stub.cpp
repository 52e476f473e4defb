// Stands in for the CUDA backend where it is not built.
