// From the gradient to the decision whether to make the update: L1, L2 and the gradient's norm, see
// deepnotes/equations/regularization.py. EagerProgram.train decides in the same way.

#include "steps.cuh"

struct SumOfSquares {
    real* g;
    const real* theta;
    long long decaying;
    real l1, l2;
    Totals totals;

    template <int V>
    __device__ void operator()(Count<V>, long long i) {
        real x[V];
        load(g + i, x);
        if ((l1 != 0 || l2 != 0) && i < decaying) {
            real w[V];
            load(theta + i, w);
#pragma unroll
            for (int v = 0; v < V; v++)
                if (i + v < decaying) x[v] = add_penalties(x[v], w[v], l1, l2);
            store(g + i, x);
        }
#pragma unroll
        for (int v = 0; v < V; v++) {
            totals.first += static_cast<double>(x[v]) * x[v];
            totals.largest = larger(static_cast<double>(fabs(x[v])), totals.largest);
        }
    }
};

// g += l2 θ + l1 sign(θ) for the first `decaying` of p elements. For each block, three numbers of `partial`, in double
// precision: the sum of the squares of its elements of g, their largest magnitude, and the sum of its losses of L. The
// changes of statistics follow in g, up to `size`: they do not count, but make the first two NaN unless they are finite.
extern "C" __global__ void __launch_bounds__(BLOCK) gradient_norm(
    real* g, const real* theta, long long p, long long size, long long decaying, real l1, real l2, const real* L,
    long long m, double* partial
) {
    __shared__ double scratch[3 * BLOCK / 32];
    SumOfSquares squares{g, theta, decaying, l1, l2};
    flat(p, aligned(g) && aligned(theta), squares);
    const long long step = gridDim.x * static_cast<long long>(blockDim.x);
    for (long long j = blockIdx.x * static_cast<long long>(blockDim.x) + threadIdx.x; j < m; j += step)
        squares.totals.second += L[j];
    for (long long i = p + blockIdx.x * static_cast<long long>(blockDim.x) + threadIdx.x; i < size; i += step) {
        const double zero = 0.0 * g[i];
        squares.totals.first += zero;
        squares.totals.largest = larger(zero, squares.totals.largest);
    }
    squares.totals.combine_block(scratch);
    if (threadIdx.x != 0) return;
    double* mine = partial + 3 * blockIdx.x;
    mine[0] = squares.totals.first, mine[1] = squares.totals.largest, mine[2] = squares.totals.second;
}

// Compute the sums for `decide` from those of the blocks and from the losses, and decide; if the update may be made, copy
// its scalars to `current`. `scalars` has shape (updates, columns); the first column is the learning rate. One block of
// WIDE threads; without the bound of one block, NVRTC uses a stack for sm_80.
extern "C" __global__ void __launch_bounds__(WIDE, 1) check_update(
    Control* control, const double* partial, int blocks, long long m, const double* scalars, int columns,
    double* current, double clip_norm, double safe_step
) {
    __shared__ double scratch[3 * WIDE / 32];
    if (control->stopped) return;
    Totals totals;
    for (int i = threadIdx.x; i < blocks; i += blockDim.x) {
        totals.first += partial[3 * i];
        totals.largest = larger(partial[3 * i + 1], totals.largest);
        totals.second += partial[3 * i + 2];
    }
    totals.combine_block(scratch);
    if (threadIdx.x != 0) return;

    const double* update_scalars = scalars + columns * control->updates;
    decide(control, totals.first, totals.largest, totals.second, m, update_scalars[0], clip_norm, safe_step, 1e-4 * sqrt(safe_step));
    if (control->stopped) return;
    for (int i = 0; i < columns; i++) current[i] = update_scalars[i];
}

// End one of several epochs of a chunk, unless training has stopped: store its sums of losses and weights, and the cost
// of its last batch, in its row of `sums`, and start the next epoch with sums of 0. One thread.
extern "C" __global__ void __launch_bounds__(1) end_epoch(Control* control, double* sums) {
    if (control->stopped) return;
    double* mine = sums + 3 * control->epoch;
    mine[0] = control->loss_sum, mine[1] = control->weight_sum, mine[2] = control->cost;
    control->loss_sum = control->weight_sum = 0;
    control->epoch += 1;
}
