// The elementwise part of a dense layer, for any activation: bias and activation (N2, N3), derivatives (N12, N14).

#include "rounding.cuh"

// The identity, as an activation: `forward` replaces numbers of Z by those of A (N3), and `backward` numbers of dA by
// those of dZ (N12). CHANGES is false if they change nothing, and NEEDS_Z and NEEDS_A say what `backward` reads.
struct Identity {
    static constexpr bool CHANGES = false, BY_ROWS = false, NEEDS_Z = false, NEEDS_A = false;

    template <int V>
    __device__ void forward(real (&)[V]) const {}

    template <int V>
    __device__ void backward(real (&)[V], const real (&)[V], const real (&)[V]) const {}
};

template <int V, class G>
__device__ inline void bias_activation_rows(
    real* Z, const real* __restrict__ b, real* A, const Factor& factor, int n, long long m, const G& g
) {
    const Tile<V> tile(n);
    const long long step = gridDim.y * static_cast<long long>(tile.height);
    for (long long c = blockIdx.x * static_cast<long long>(tile.width) + tile.x; c < tile.columns;
         c += gridDim.x * static_cast<long long>(tile.width)) {
        real bias[V];
#pragma unroll
        for (int v = 0; v < V; v++) bias[v] = b ? b[c * V + v] : real(0);
#pragma unroll 1  // several rows at a time need more registers, and their loads cannot overlap with the stores
        for (long long j = blockIdx.y * static_cast<long long>(tile.height) + tile.y; j < m; j += step) {
            const long long at = j * n + c * V;
            real z[V];
            load(Z + at, z);
            if (b) {
#pragma unroll
                for (int v = 0; v < V; v++) z[v] += bias[v];  // N2
                if (A != Z) store(Z + at, z);
            }
            if (A) {
                g.forward(z);  // N3
                store(A + at, z);
                if (factor.out) factor.store(j, n, c * V, z);
            }
        }
    }
}

// Z += b in place (N2) and A = g(Z) (N3). A may be null; it may also be Z, if Z is not needed afterwards. A is written to
// `factor` as well. b may be null; then Z is not changed, unless it is A.
template <class G>
__device__ inline void add_bias_and_activate(
    real* Z, const real* b, real* A, const Factor& factor, int n, long long m, const G& g
) {
    if (n % VEC == 0 && aligned(Z) && aligned(A))
        bias_activation_rows<VEC>(Z, b, A, factor, n, m, g);
    else
        bias_activation_rows<1>(Z, b, A, factor, n, m, g);
}

constexpr int AHEAD = 2;  // rows that `backward_rows` loads at a time

// Turn dA into dZ (N12), from D to `factor` or, if there is none, in place in D. partial[c * n + i] = scale * the sum of
// dZ over the samples of chunk c. Each thread adds up its own samples in order; then the sums of the threads are added
// in a tree. `scratch` is shared memory for V numbers per thread.
template <int V, class G>
__device__ inline void backward_rows(
    real* D, const real* Z, const real* A, const Factor& factor, real* partial, int n, long long m, long long rows,
    real scale, real* scratch, const G& g
) {
    const Tile<V> tile(n);
    const long long chunks = (m + rows - 1) / rows;
    for (long long left = blockIdx.x * static_cast<long long>(tile.width); left < tile.columns;
         left += gridDim.x * static_cast<long long>(tile.width)) {  // the same for all threads: the loop has barriers
        const long long c = left + tile.x;
        for (long long chunk = blockIdx.y; chunk < chunks; chunk += gridDim.y) {
            const long long end = c >= tile.columns ? 0 : (chunk + 1) * rows < m ? (chunk + 1) * rows : m;
            real sums[V] = {};
            for (long long j = chunk * rows + tile.y; j < end; j += AHEAD * tile.height) {
                real d[AHEAD][V] = {}, z[AHEAD][V] = {}, a[AHEAD][V] = {};
#pragma unroll
                for (int r = 0; r < AHEAD; r++)
                    if (j + r * tile.height < end) {
                        const long long at = (j + r * tile.height) * n + c * V;
                        load(D + at, d[r]);
                        if (G::NEEDS_Z) load(Z + at, z[r]);
                        if (G::NEEDS_A) load(A + at, a[r]);
                    }
                if (G::CHANGES) {
                    g.backward(
                        reinterpret_cast<real(&)[AHEAD * V]>(d), reinterpret_cast<real(&)[AHEAD * V]>(z),
                        reinterpret_cast<real(&)[AHEAD * V]>(a)
                    );
#pragma unroll
                    for (int r = 0; r < AHEAD; r++)
                        if (!factor.out && j + r * tile.height < end)
                            store(D + (j + r * tile.height) * n + c * V, d[r]);
                }
                if (factor.out)
#pragma unroll
                    for (int r = 0; r < AHEAD; r++)
                        if (j + r * tile.height < end) factor.store(j + r * tile.height, n, c * V, d[r]);
#pragma unroll
                for (int r = 0; r < AHEAD; r++)
                    if (j + r * tile.height < end)
#pragma unroll
                        for (int v = 0; v < V; v++) sums[v] += d[r][v];
            }
            if (!partial) continue;
#pragma unroll
            for (int v = 0; v < V; v++) scratch[v * blockDim.x + threadIdx.x] = sums[v];
            __syncthreads();
            for (int half = tile.height / 2; half > 0; half /= 2) {
                if (tile.y < half)
#pragma unroll
                    for (int v = 0; v < V; v++) {
                        const int at = v * blockDim.x + threadIdx.x;
                        scratch[at] += scratch[at + half * tile.width];
                    }
                __syncthreads();
            }
            if (tile.y == 0 && c < tile.columns)
#pragma unroll
                for (int v = 0; v < V; v++)
                    partial[chunk * n + c * V + v] = scale * scratch[v * blockDim.x + threadIdx.x];
            // No barrier is needed before the next chunk: the last reads and the next writes of a thread in `scratch`
            // are at its own places.
        }
    }
}

// Do the same by packs if possible. An array that is not needed may be null, and so may `partial`.
template <class G>
__device__ inline void differentiate_and_sum(
    real* D, const real* Z, const real* A, const Factor& factor, real* partial, int n, long long m, long long rows,
    real scale, real* scratch, const G& g
) {
    const bool packs = (!G::NEEDS_Z || aligned(Z)) && (!G::NEEDS_A || aligned(A));
    if (n % VEC == 0 && packs && aligned(D))
        backward_rows<VEC>(D, Z, A, factor, partial, n, m, rows, scale, scratch, g);
    else
        backward_rows<1>(D, Z, A, factor, partial, n, m, rows, scale, scratch, g);
}
