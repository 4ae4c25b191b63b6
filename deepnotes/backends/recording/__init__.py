"""Recording of pure functions: a function is traced once and then replayed in fixed buffers, without allocations."""
