// Replaces checks.cpp in the builds for speed and for the address sanitizer.

#include "runtime.hpp"

extern "C" {
void host_check_launch() {}
void host_check_block() {}
void host_check_barrier() {}
void host_check_warp_barrier() {}
void host_check_stack(char*, size_t) {}
__attribute__((visibility("default"))) void host_regions(int, const void**, const size_t*) {}
}
