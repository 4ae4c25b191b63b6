// From the gradient to the next parameters: L2, the gradient's norm, the decision whether to make the update, and the
// update of each optimizer in one pass. deepnotes/equations/optimizers.py and regularization.py have the equations;
// EagerProgram.train decides in the same way.

#include "updates.cuh"

enum Scalar { LEARNING_RATE, RATE, EPSILON, SHARE };  // the columns of the table of scalars of the optimizers below

struct SumOfSquares {
    real* g;
    const real* theta;
    long long decaying;
    real l2;
    Totals totals;

    template <int V>
    __device__ void operator()(Count<V>, long long i) {
        real x[V];
        load(g + i, x);
        if (l2 != 0 && i < decaying) {
            real w[V];
            load(theta + i, w);
#pragma unroll
            for (int v = 0; v < V; v++)
                if (i + v < decaying) x[v] += l2 * w[v];
            store(g + i, x);
        }
#pragma unroll
        for (int v = 0; v < V; v++) {
            totals.first += static_cast<double>(x[v]) * x[v];
            totals.largest = larger(static_cast<double>(fabs(x[v])), totals.largest);
        }
    }
};

// g += l2 θ for the first `decaying` elements (l2_gradient). For each block, three numbers of `partial`, in double
// precision: the sum of the squares of its elements of g, their largest magnitude, and the sum of its losses of L.
extern "C" __global__ void __launch_bounds__(BLOCK) gradient_norm(
    real* g, const real* theta, long long p, long long decaying, real l2, const real* L, long long m, double* partial
) {
    __shared__ double scratch[3 * BLOCK / 32];
    SumOfSquares squares{g, theta, decaying, l2};
    flat(p, aligned(g) && aligned(theta), squares);
    const long long step = gridDim.x * static_cast<long long>(blockDim.x);
    for (long long j = blockIdx.x * static_cast<long long>(blockDim.x) + threadIdx.x; j < m; j += step)
        squares.totals.second += L[j];
    squares.totals.combine_block(scratch);
    if (threadIdx.x != 0) return;
    double* mine = partial + 3 * blockIdx.x;
    mine[0] = squares.totals.first, mine[1] = squares.totals.largest, mine[2] = squares.totals.second;
}

// Compute the cost of a batch, the norm of its gradient and the clipping factor, and decide whether the update may be
// made here. If so, add the batch to the sums, and copy the scalars of the update to `current`. `scalars` has shape
// (updates, columns); the first column is the learning rate. clip_norm is 0 without clipping. No update overflows if
// the learning rate times max(norm, 1) is below `safe_step`, and the norm after clipping is below
// 1e-4 * sqrt(safe_step). One block of WIDE threads; without the bound of one block, NVRTC uses a stack for sm_80.
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

    const double cost = real(totals.second / m);
    const double square = totals.first, largest = totals.largest;
    const double* update_scalars = scalars + columns * control->updates;
    const double norm = isfinite(square) ? sqrt(square) : largest;
    control->cost = cost;
    control->norm = norm;
    if (!isfinite(cost) || !isfinite(norm)) {
        control->stopped = 1;
        return;
    }
    // The sum of squares can overflow; it can also underflow, although the norm is above clip_norm.
    const bool norm_is_known = isfinite(square) && (square > 1e-280 || !(clip_norm > 0 && largest > clip_norm));
    const double clipped = clip_norm > 0 && norm > clip_norm ? clip_norm : norm;  // an optimizer may square it
    const bool step_is_safe = update_scalars[0] * (norm > 1 ? norm : 1.0) < safe_step;
    if (!norm_is_known || !step_is_safe || !(clipped < 1e-4 * sqrt(safe_step))) {
        control->stopped = 2;
        return;
    }
    control->clip = clip_norm > 0 && norm > clip_norm ? clip_norm / norm : 1.0;
    for (int i = 0; i < columns; i++) current[i] = update_scalars[i];
    control->loss_sum += cost * m;
    control->weight_sum += m;
    control->step += 1;
    control->updates += 1;
}

// θ ← θ - rate g (equation gradient_descent).
struct Descent {
    real rate;

    template <int V>
    __device__ void operator()(long long, real (&w)[V], real (&x)[V]) const {
#pragma unroll
        for (int i = 0; i < V; i++) w[i] -= rate * x[i];
    }
};

extern "C" __global__ void __launch_bounds__(BLOCK) sgd(
    real* theta, const real* g, long long p, long long decaying, const Control* control, const double* scalars
) {
    update_all(theta, g, p, decaying, control, real(scalars[SHARE]), true, Descent{real(scalars[RATE])});
}

// v ← momentum v + g, θ ← θ - rate v, or θ - rate (g + momentum v) for Nesterov momentum (equation momentum).
struct Momentum {
    real* velocity;
    real rate, momentum;
    int nesterov;

    template <int V>
    __device__ void operator()(long long at, real (&w)[V], real (&x)[V]) const {
        real v[V];
        load(velocity + at, v);
#pragma unroll
        for (int i = 0; i < V; i++) {
            v[i] = momentum * v[i] + x[i];
            w[i] -= rate * (nesterov ? x[i] + momentum * v[i] : v[i]);
        }
        store(velocity + at, v);
    }
};

extern "C" __global__ void __launch_bounds__(BLOCK) momentum(
    real* theta, const real* g, real* velocity, long long p, long long decaying, const Control* control,
    const double* scalars, real momentum, int nesterov
) {
    const Momentum step{velocity, real(scalars[RATE]), momentum, nesterov};
    update_all(theta, g, p, decaying, control, real(scalars[SHARE]), aligned(velocity), step);
}

// s ← rho s + (1 - rho) g², θ ← θ - rate g / (sqrt s + epsilon) (equation rmsprop); `rest` is 1 - rho.
struct RmsProp {
    real* square;
    real rate, epsilon, rho, rest;

    template <int V>
    __device__ void operator()(long long at, real (&w)[V], real (&x)[V]) const {
        real s[V];
        load(square + at, s);
#pragma unroll
        for (int i = 0; i < V; i++) {
            s[i] = rho * s[i] + rest * (x[i] * x[i]);
            w[i] -= rate * (x[i] / (sqrt(s[i]) + epsilon));
        }
        store(square + at, s);
    }
};

extern "C" __global__ void __launch_bounds__(BLOCK) rmsprop(
    real* theta, const real* g, real* square, long long p, long long decaying, const Control* control,
    const double* scalars, real rho, real rest
) {
    const RmsProp step{square, real(scalars[RATE]), real(scalars[EPSILON]), rho, rest};
    update_all(theta, g, p, decaying, control, real(scalars[SHARE]), aligned(square), step);
}

// m ← beta1 m + g, v ← beta2 v + g², θ ← θ - rate m / (sqrt v + epsilon); rate and epsilon include the bias corrections
// (equation adam; AdamW if share is not 0).
struct Adam {
    real *first, *second;
    real rate, epsilon, beta1, beta2;

    template <int V>
    __device__ void operator()(long long at, real (&w)[V], real (&x)[V]) const {
        real m[V], v[V];
        load(first + at, m);
        load(second + at, v);
#pragma unroll
        for (int i = 0; i < V; i++) {
            m[i] = beta1 * m[i] + x[i];
            v[i] = beta2 * v[i] + x[i] * x[i];
            w[i] -= rate * (m[i] / (sqrt(v[i]) + epsilon));
        }
        store(first + at, m);
        store(second + at, v);
    }
};

extern "C" __global__ void __launch_bounds__(BLOCK, 3) adam(
    real* theta, const real* g, real* first, real* second, long long p, long long decaying, const Control* control,
    const double* scalars, real beta1, real beta2
) {
    const Adam step{first, second, real(scalars[RATE]), real(scalars[EPSILON]), beta1, beta2};
    update_all(theta, g, p, decaying, control, real(scalars[SHARE]), aligned(first) && aligned(second), step);
}
