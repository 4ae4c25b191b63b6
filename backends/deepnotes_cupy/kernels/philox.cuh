// The random numbers of dropout masks, the same as on every backend: Philox-4x32-10.

#include "common.cuh"

// The four random words for one counter (equation philox).
__device__ inline uint4 philox(uint4 x, unsigned long long seed) {
    unsigned key0 = static_cast<unsigned>(seed), key1 = static_cast<unsigned>(seed >> 32);
#pragma unroll
    for (int round = 0; round < 10; round++) {
        const unsigned high0 = __umulhi(x.x, 0xD2511F53u), low0 = x.x * 0xD2511F53u;
        const unsigned high2 = __umulhi(x.z, 0xCD9E8D57u), low2 = x.z * 0xCD9E8D57u;
        x = make_uint4(high2 ^ x.y ^ key0, low2, high0 ^ x.w ^ key1, low0);
        key0 += 0x9E3779B9u;
        key1 += 0xBB67AE85u;
    }
    return x;
}
