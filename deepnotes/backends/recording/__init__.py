"""Recording of pure steps: they are traced once, given buffers, and replayed in place without allocations."""
