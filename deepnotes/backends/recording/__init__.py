"""Pure steps recorded once and replayed in place: traced, given buffers, and run again without allocating."""
