// Owner of the precompiled Catch2 header.
